"""Tasks of lm-eval: each document is right here where it is right in that library's own run, which
is an oracle. Data are local; no hub is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from infopt_suites.gates.tasks.choices import cannot_choose
from infopt_suites.gates.tasks.measure import TasksMeasure
from infopt_suites.gates.tasks.release_tasks import tasks_of
from infopt_suites.gates.tasks.task_data import CHOICE, CONTINUED, VERIFIED
from infopt_suites.gates.tasks.task_packages import packaged_task
from infopt_suites.gates.tasks.task_plan import TasksPlan
from second_engine import BigramEngine

from pytest_infopt.engines.base import Engine
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.errors import ConfigurationError
from pytest_infopt.release import ModelSource, Release

installed = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed")
QUESTION = r'doc_to_text: "Question: {{question}}\nAnswer:"'
CHOICES = f"""output_type: multiple_choice
{QUESTION}
doc_to_target: answer
doc_to_choice: choices
metric_list:
  - metric: acc
  - metric: acc_norm
"""
CONTINUATION = """output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{choices[answer]}}"
metric_list:
  - metric: acc
"""
WRITTEN = rf"""output_type: generate_until
{QUESTION}
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs:
  until: ["\n", "."]
  max_gen_toks: 12
filter_list:
  - name: first-word
    filter:
      - function: regex
        regex_pattern: "(\\w+)"
      - function: take_first
  - name: whole
    filter:
      - function: take_first
metric_list:
  - metric: exact_match
    ignore_case: true
"""


@pytest.fixture
def task_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a task on the first shipped items."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def write(text: str, count: int = 8) -> Path:
        items = packaged_task("shipped", 0, 0).items[:count]
        records = [
            {"question": i.question, "choices": i.choices, "answer": i.choices.index(i.answer)}
            for i in items
        ]
        data = tmp_path / "items.jsonl"
        data.write_text("".join(json.dumps(record) + "\n" for record in records))
        head = f"task: own\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        path = tmp_path / "own.yaml"
        path.write_text(f"{head}test_split: test\n{text}")
        return path

    return write


def measured(engine: Engine, path: Path, key: str = "", **plan: Any) -> dict[int, bool]:
    """Which documents the engine answers right, as the gate asks it."""
    files = {"packages": (f"lm-eval:{path}:{key}",)} if key else {"files": (path,)}
    release = Release(ModelSource("r", "r"), (), plans=(TasksPlan(**files, **plan),))
    pair: Any = type("Pair", (), {})()
    pair.release, pair.reference, pair.candidate = release, engine, engine
    (task,) = tasks_of(release)
    asking = TasksMeasure(pair)._answering(task)
    return {int(item.id): asking.answer(engine, item).right for item in task.items}


def their_own(engine: Any, path: Path, key: str, shots: int, chat: bool) -> dict[int, bool]:
    """What `simple_evaluate` says of each document."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(pretrained=engine.module, tokenizer=engine.tokenizer, batch_size=1)
    results = simple_evaluate(
        model,
        tasks=[str(path)],
        task_manager=TaskManager(include_defaults=False),
        num_fewshot=shots or None,
        apply_chat_template=chat,
        fewshot_as_multiturn=False,
        fewshot_random_seed=Release.statistics.seed,
        bootstrap_iters=0,
    )
    metric, _, filtered = key.partition(",")
    samples: list[Mapping[str, Any]] = results["samples"]["own"]
    return {s["doc_id"]: s[metric] == 1 for s in samples if s["filter"] == filtered}


@installed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "key", "shots", "begins_with"),
    [
        (CHOICES, "acc,none", 0, "tokenizer"),
        (CHOICES, "acc_norm,none", 2, "tokenizer"),
        (CHOICES, "acc_norm,none", 1, "chat"),
        (CONTINUATION, "acc,none", 0, "tokenizer"),
        (WRITTEN, "exact_match,first-word", 0, "chat"),
        (WRITTEN, "exact_match,whole", 1, "tokenizer"),
    ],
)
def test_each_document_is_right_where_the_library_says_so(
    task_file: Any, text: str, key: str, shots: int, begins_with: str
) -> None:
    engine = load_engine(ModelSource("reference", "embedded:smollm2", dtype="float32"))
    path = task_file(text)
    found = measured(engine, path, key, shots=shots, begins_with=begins_with)
    assert found == their_own(engine, path, key, shots, begins_with == "chat")
    assert len(found) == 8


@installed
@pytest.mark.parametrize(
    ("text", "kind", "chance"),
    [(CHOICES, CHOICE, 0.25), (CONTINUATION, CONTINUED, 0), (WRITTEN, VERIFIED, 0)],
)
def test_what_a_task_is_comes_from_its_file(
    task_file: Any, text: str, kind: str, chance: float
) -> None:
    plan = TasksPlan(files=(task_file(text),), items=5)
    (task,) = tasks_of(Release(ModelSource("r", "r"), (), plans=(plan,)))
    assert (task.name, task.kind, task.chance, len(task.units)) == ("own", kind, chance, 5)
    assert task.items[0].answer
    told = cannot_choose(task, BigramEngine("own", "ab"), chat=False)
    assert told == ""


@installed
@pytest.mark.parametrize(
    ("text", "told"),
    [
        (CHOICES.replace("multiple_choice", "loglikelihood_rolling"), "no right and wrong answers"),
        (WRITTEN.replace("max_gen", "do_sample: true\n  max_gen"), "at random"),
        (CHOICES.replace("choices\n", "chances\n"), "cannot load it"),
    ],
)
def test_a_task_that_is_none_is_named(task_file: Any, text: str, told: str) -> None:
    path = task_file(text)
    with pytest.raises(ConfigurationError, match=told):
        tasks_of(Release(ModelSource("r", "r"), (), plans=(TasksPlan(files=(path,)),)))


@installed
def test_results_are_named_as_the_library_names_them(task_file: Any) -> None:
    path = task_file(WRITTEN)
    for key, told in (
        ("acc_norm", "known: exact_match"),
        ("exact_match,hole", "did you mean whole"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            packaged_task(f"lm-eval:{path}:{key}", 0, 0)


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_the_library_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="pip install lm-eval"):
        packaged_task("lm-eval:hellaswag", 0, 0)
