"""The task gate in a run: equal answers pass, a broken candidate fails with the items that flipped,
and what shows nothing is no PASS."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_server_fake import Behaviour, openai_server
from tiny_models import VOCABULARY

from pytest_infopt.console.runs import found_run
from pytest_infopt.console.verification import verify
from pytest_infopt.engines.base import Engine
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.release import ModelSource
from pytest_infopt.run.exit_status import ExitStatus

GATE = ("-k", "test_tasks")
ITEMS = 60
LOSS, KEPT = "task_accuracy_loss", "task_accuracy_kept"
TEN_POINTS = f"{LOSS} = 0.1\n"


@pytest.fixture(scope="session")
def reference(tiny_reference: Path) -> Engine:
    return load_engine(ModelSource("reference", str(tiny_reference)))


def questions(seed: int = 0) -> Iterator[str]:
    words = random.Random(seed)
    while True:
        yield " ".join(f"w{words.randrange(VOCABULARY)}" for _ in range(8))


def next_words(engine: Engine, question: str, count: int = 1) -> list[str]:
    """What the model writes behind the question, as the gate puts it."""
    prompt = engine.encode(f"Question: {question}\nAnswer:", "tokenizer")
    (tokens,) = engine.generate([prompt], [count])  # type: ignore[attr-defined]
    return engine.decode(tokens).split()


def written(path: Path, items: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


@pytest.fixture
def choices(reference: Engine, tmp_path: Path) -> Callable[..., Path]:
    """A file of items with four choices, of which the reference's own answer is right; of a share
    ``wrong`` of them, another one is."""

    def build(name: str = "words", wrong: float = 0.2, group: int = 0) -> Path:
        words, items = random.Random(1), []
        for index, question in zip(range(ITEMS), questions(), strict=False):
            (own,) = next_words(reference, question)
            others = [f"w{i}" for i in range(VOCABULARY) if f"w{i}" != own]
            options = [own, *words.sample(others, 3)]
            words.shuffle(options)
            right = options[0] if words.random() < wrong else own
            item = {"id": f"{index}", "question": question, "choices": options, "answer": right}
            items.append(item | ({"group": f"{index // group}"} if group else {}))
        return written(tmp_path / f"{name}.jsonl", items)

    return build


@pytest.fixture
def broken(damaged: Callable[..., Path]) -> str:
    def noise(module: Any) -> None:
        import torch

        torch.manual_seed(3)
        for parameter in module.parameters():
            parameter.data = torch.randn_like(parameter) * 0.2

    return f'model = "{damaged("broken", noise)}"'


def asked(*files: Path, more: str = "") -> str:
    return f"[tasks]\nfiles = {json.dumps([str(path) for path in files])}\n{more}\n"


def rows(result: Callable[[], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["metric"]: row for row in result()["gates"]}


def test_equal_answers_pass_and_the_plan_says_first_what_they_tell(gate, result, choices) -> None:
    more = asked(choices())
    plan = gate("--collect-only", budgets=TEN_POINTS, more=more)
    plan.stdout.fnmatch_lines(
        [
            "*tasks: task_accuracy_loss ≤ 10 % (*at least 52 items)",
            "tasks: task words: 60 items, multiple choice",
            "*takes 100 where 2 % of the answers differ (expected inconclusive: 60 tell 14 points) "
            "and 157 where 6 %*inconclusive*",
        ]
    )
    run = gate(*GATE, budgets=TEN_POINTS, more=more)
    assert run.ret == ExitStatus.PASSED, run.stdout.str()
    loss = rows(result)[LOSS]
    assert (loss["verdict"], loss["value"]) == ("PASS", 0)
    assert 52 <= loss["n"] <= ITEMS
    assert rows(result)[KEPT]["value"] == 1


def test_a_broken_candidate_fails_and_the_items_are_named(gate, result, choices, broken) -> None:
    run = gate(
        *GATE, candidates={"broken": broken}, budgets=TEN_POINTS, more=asked(choices(wrong=0.0))
    )
    assert run.ret == ExitStatus.FAILED, run.stdout.str()
    loss = rows(result)[LOSS]
    assert loss["verdict"] == "FAIL"
    assert loss["interval"][0] > 0.1
    assert loss["n"] < ITEMS  # ended early
    run.stdout.fnmatch_lines(["*note: lost words *right 'w*, reference 'w*, candidate 'w*"])
    assert '"flip": "lost"' in json.dumps(result())


def test_written_answers_are_numbers_or_texts(gate, result, reference, tmp_path) -> None:
    """A tiny model writes words; the last number in w17 is 17."""
    texts, numbers = [], []
    for index, question in zip(range(55), questions(2), strict=False):
        words = next_words(reference, question, 3)
        texts.append({"id": f"{index}", "question": question, "answer": " ".join(words)})
        numbers.append({"id": f"{index}", "question": question, "answer": int(words[-1][1:])})
    files = (
        written(tmp_path / "texts.jsonl", texts),
        written(tmp_path / "numbers.jsonl", numbers),
    )
    plan = gate("--collect-only", budgets=TEN_POINTS, more=asked(*files, more="new_tokens = 3"))
    plan.stdout.fnmatch_lines(["*texts: 55 items, exact match", "*numbers: 55 items, number"])
    run = gate(*GATE, budgets=TEN_POINTS, more=asked(*files, more="new_tokens = 3"))
    assert run.ret == ExitStatus.PASSED, run.stdout.str()
    assert rows(result)[LOSS]["n"] == 55


def test_a_server_writes_answers_and_chooses_where_it_scores_texts(
    gate, result, reference, tmp_path
) -> None:
    """The candidate is a URL: the same model passes; where it tells no log-probabilities, choices
    are NOT RUN."""
    items = [
        {"id": f"{index}", "question": question, "answer": next_words(reference, question)[0]}
        for index, question in zip(range(55), questions(3), strict=False)
    ]
    files, lines = [written(tmp_path / "words.jsonl", items)], "new_tokens = 1"
    choices = [{**item, "choices": [item["answer"], "one", "two"]} for item in items]
    files.append(written(tmp_path / "choices.jsonl", choices))

    def run(dialect: str) -> pytest.RunResult:
        with openai_server(reference, Behaviour(dialect)) as server:
            served = {"served": f'engine = "openai"\nserver.url = "{server.url}"'}
            return gate(
                *GATE, candidates=served, budgets=TEN_POINTS, more=asked(*files, more=lines)
            )

    found = run("vllm")
    assert found.ret == ExitStatus.PASSED, found.stdout.str()
    assert rows(result)[LOSS]["n"] == 55
    assert run("text").ret == ExitStatus.INCONCLUSIVE
    assert "lacks: scores" in json.dumps(result())


def test_a_task_that_the_reference_cannot_do_shows_nothing(gate, result, choices) -> None:
    run = gate(*GATE, budgets=TEN_POINTS, more=asked(choices(wrong=1.0)))
    assert run.ret == ExitStatus.INCONCLUSIVE
    assert "take a task that the reference can do" in rows(result)[LOSS]["reason"]


def test_one_task_that_fails_fails_all(gate, result, choices, broken) -> None:
    """The first task has nothing to lose; the second one decides."""
    files = choices("hopeless", wrong=1.0), choices("done", wrong=0.0)
    run = gate(*GATE, candidates={"broken": broken}, budgets=TEN_POINTS, more=asked(*files))
    assert run.ret == ExitStatus.FAILED
    assert rows(result)[LOSS]["reason"].startswith("done: breaks ≤ 10 %")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('packages = ["no-such-package:task"]', "unknown task 'no-such-package:task'"),
        ('packages = ["reasoning-gym:chain_sum"]', "items = 500"),
    ],
)
def test_a_task_that_cannot_be_had_is_never_green(gate, result, choices, more, told) -> None:
    plan = gate("--collect-only", budgets=TEN_POINTS, more=asked(choices(), more=more))
    plan.stdout.fnmatch_lines([f"*tasks: NOT RUN: *{told}*"])
    run = gate(*GATE, budgets=TEN_POINTS, more=asked(choices(), more=more))
    assert run.ret == ExitStatus.HARNESS_ERROR


def test_an_interrupted_run_comes_to_the_verdict_of_a_whole_one(
    gate, result, choices, pytester
) -> None:
    """Ten units, then a second run that goes on: the same numbers, bit for bit."""
    words, more = [*GATE, "--infopt-seed=3"], asked(choices(group=2))
    assert gate(*words, budgets=TEN_POINTS, more=more).ret == ExitStatus.INCONCLUSIVE
    whole = result()
    journal = max((pytester.path / ".infopt" / "runs").glob("*/journal.jsonl"))
    lines = journal.read_text().splitlines()
    samples = [line for line in lines if json.loads(line)["kind"] == "sample"]
    assert len(samples) == ITEMS / 2
    run_line = next(line for line in lines if json.loads(line)["kind"] == "run")
    folder = pytester.path / ".infopt" / "runs" / "zz-interrupted"
    folder.mkdir()
    (folder / "journal.jsonl").write_text("\n".join([run_line, *samples[:10]]) + "\n")
    run = gate(*words, "--infopt-resume=zz-interrupted", budgets=TEN_POINTS, more=more)
    assert run.ret == ExitStatus.INCONCLUSIVE
    resumed = json.loads((folder / "result.json").read_text())
    assert measured(resumed) == measured(whole)
    assert verify(found_run(str(folder))).holds
    lines = (folder / "journal.jsonl").read_text().splitlines()
    kept = [json.loads(line)["sample"] for line in lines if json.loads(line)["kind"] == "sample"]
    assert [each["unit"] for each in kept] == [
        json.loads(line)["sample"]["unit"] for line in samples
    ]


def measured(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "item")}
        for row in document["gates"]
    ]


def test_samples_of_other_prompts_are_not_taken(gate, result, choices, pytester) -> None:
    """The file's text is in the fingerprint; what a package's has changed, in the samples' key."""
    path = choices()
    assert gate(*GATE, budgets=TEN_POINTS, more=asked(path)).ret == ExitStatus.PASSED
    path.write_text(path.read_text().replace('"question": "w', '"question": "w1 w', 1))
    run = gate(*GATE, "--infopt-resume=latest", budgets=TEN_POINTS, more=asked(path))
    assert run.ret == pytest.ExitCode.USAGE_ERROR


def test_limits_without_tasks_are_refused(gate) -> None:
    run = gate("--collect-only", budgets=TEN_POINTS)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*set files_or_packages in *tasks*"])
