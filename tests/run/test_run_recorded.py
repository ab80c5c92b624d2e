"""The gate on result files of other tools: what it judges, what it refuses to judge."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import recorded_results as written
from in_process_run import Outcome, run_gates
from recorded_results import Session

from pytest_infopt.results.verdict import Judgement
from pytest_infopt.run.exit_status import ExitStatus

RELEASE = """
[reference]
engine = "recorded-results"
model = "my-org/my-model"
options.files = ["reference/*"]
[candidates.fast]
options.files = ["fast/*"]
"""
BLOCKS = "[recorded]\nblocks = true\n"
SIDES = ("reference", "fast")
Change = Callable[[Session], Session]


def sessions(
    folder: Path, count: int, slower: float = 1.0, *, coin: Callable[[int], bool] | None = None
) -> None:
    """Alternated sessions of vLLM, the candidate's as much slower; ``coin``: it goes first."""
    first = coin or (lambda index: bool(index % 3))
    for index in range(count):
        for side in SIDES:
            place = 2 * index + ((side == "fast") is not first(index))
            factor = slower if side == "fast" else 1.0
            session = Session(0.25 * factor, 0.03125 * factor, finished=place)
            written.write(folder / side / f"{index}.json", written.vllm(session))


def answers(folder: Path, right: dict[str, Sequence[bool]], prompt: str = "p") -> None:
    for side, each in right.items():
        lines = written.lm_eval_samples(each, prompt=prompt if side == "fast" else "p")
        written.write(folder / side / "samples_gsm8k_2026-11-29T01-02-03.4.jsonl", *lines)


def judged(folder: Path, more: str = "") -> tuple[Outcome, dict[str, Judgement]]:
    (folder / "infopt.toml").write_text(RELEASE + more, encoding="utf-8")
    outcome = run_gates(folder, ("fast",), ("recorded",))["fast", "recorded"]
    rows = outcome.result.judgements if outcome.result else []
    return outcome, {row.metric.removeprefix("recorded_"): row for row in rows}


@pytest.mark.parametrize(("slower", "verdict"), [(1.0, "PASS"), (1.5, "FAIL")])
def test_alternated_sessions_are_judged(slower: float, verdict: str, tmp_path: Path) -> None:
    sessions(tmp_path, 20, slower)
    outcome, rows = judged(tmp_path, BLOCKS)
    assert outcome.verdict == verdict
    assert rows["ttft_ratio"].value == pytest.approx(slower)
    assert rows["throughput_ratio"].value == pytest.approx(1 / slower)
    assert rows["itl_ratio"].verdict is None  # estimated: it has no default limit
    assert outcome.result is not None
    assert any("unpaired" in note for note in outcome.result.notes)


@pytest.mark.parametrize("slower", [1.0, 5.0])
def test_sessions_that_are_not_declared_as_blocks_are_judged_neither_way(
    slower: float, tmp_path: Path
) -> None:
    sessions(tmp_path, 20, slower)
    outcome, rows = judged(tmp_path)
    assert outcome.verdict == "INCONCLUSIVE"
    assert rows["ttft_ratio"].value == pytest.approx(slower)
    assert rows["ttft_ratio"].budget == 1.1
    assert rows["ttft_ratio"].reason.startswith("unpaired: ")


def test_few_blocks_are_too_few(tmp_path: Path) -> None:
    sessions(tmp_path, 5)
    outcome, rows = judged(tmp_path, BLOCKS)
    assert outcome.verdict == "INCONCLUSIVE"
    assert rows["ttft_ratio"].needed


def test_the_first_of_sglang_is_the_first_in_the_file(tmp_path: Path) -> None:
    for side in SIDES:
        lines = [
            written.sglang(Session(0.25 + 0.01 * index + (side == "fast"))) for index in (0, 1)
        ]
        written.write(tmp_path / side / "runs.jsonl", *lines)
    outcome, rows = judged(tmp_path, BLOCKS)
    assert rows["ttft_ratio"].units == 2
    assert outcome.result is not None
    assert any("the release's word" in note for note in outcome.result.notes)


def _same_file(folder: Path) -> None:
    sessions(folder, 2)
    for side in SIDES:
        written.write(folder / side / "0.json", written.vllm(Session(finished=60)))


def _other_load(folder: Path) -> None:
    sessions(folder, 2)
    written.write(folder / "fast" / "0.json", written.vllm(Session(requests=8)))


def _failed(folder: Path) -> None:
    sessions(folder, 2)
    written.write(folder / "fast" / "0.json", written.vllm(Session(failed=1, requests=3)))


def _other_tool(folder: Path) -> None:
    sessions(folder, 2)
    written.write(folder / "fast" / "0.json", written.sglang(Session()))


def _one_after_the_other(folder: Path) -> None:
    for index in range(4):
        for place, side in enumerate(SIDES):
            session = Session(0.25 + 0.01 * index, finished=4 * place + index)
            written.write(folder / side / f"{index}.json", written.vllm(session))


def _one_more(folder: Path) -> None:
    sessions(folder, 2)
    written.write(folder / "fast" / "9.json", written.vllm(Session(0.5, finished=90)))


INVALID: dict[str, tuple[Callable[[Path], None], str]] = {
    "the same file": (_same_file, "the same session"),
    "another load": (_other_load, "num_prompts is 4 in reference's 0.json, 8 in candidate's"),
    "failed requests": (_failed, "candidate's 0.json: 1 of 4 requests failed"),
    "another tool": (_other_tool, "tool is 'vllm' in reference's 0.json, 'sglang' in candidate's"),
    "all of one, then all of the other": (_one_after_the_other, "did not alternate: block 1"),
    "a session more": (_one_more, "the reference has 2 sessions and the candidate 3"),
    "always the same first": (
        lambda folder: sessions(folder, 4, coin=lambda index: False),
        "the reference went first in all 4 blocks",
    ),
    "other items": (
        lambda folder: answers(folder, {"reference": [True] * 9, "fast": [True] * 8}),
        "1 items are the reference's alone, such as 8",
    ),
    "another prompt": (
        lambda folder: answers(folder, dict.fromkeys(SIDES, [True] * 9), "with a template"),
        "item 0 was asked otherwise",
    ),
}


@pytest.mark.parametrize("name", INVALID)
def test_what_is_not_comparable_is_named_and_not_judged(name: str, tmp_path: Path) -> None:
    plant, told = INVALID[name]
    plant(tmp_path)
    outcome, _ = judged(tmp_path, BLOCKS)
    assert outcome.verdict == "INCONCLUSIVE"
    assert told in outcome.reason


def test_other_shots_are_named(tmp_path: Path) -> None:
    answers(tmp_path, dict.fromkeys(SIDES, [True] * 9))
    for side, shots in zip(SIDES, (5, 0), strict=True):
        written.write(tmp_path / side / "results.json", written.lm_eval(shots))
    outcome, _ = judged(tmp_path)
    assert "n-shot of gsm8k is 5 in reference's results.json, 0" in outcome.reason


def test_answers_pair_by_item_without_blocks(tmp_path: Path) -> None:
    coin = random.Random(0)
    right = [coin.random() < 0.7 for _ in range(600)]
    lost = [answer and coin.random() < 0.9 for answer in right]
    for candidate, verdict in ((right, "PASS"), (lost, "FAIL")):
        answers(tmp_path, {"reference": right, "fast": candidate})
        outcome, rows = judged(tmp_path)
        assert outcome.verdict == verdict
        loss = rows["accuracy_loss"]
        seen = loss.details["lost"] - loss.details["gained"]
        assert loss.value == pytest.approx(seen / loss.n)


def test_epochs_of_one_question_are_no_more_questions(tmp_path: Path) -> None:
    grades = {f"{i}": ["C"] * 5 for i in range(100)}
    for side in SIDES:
        written.write(tmp_path / side / "log.json", written.inspect(grades))
    _, rows = judged(tmp_path)
    assert rows["accuracy_loss"].units <= 100
    assert rows["accuracy_loss"].n == 5 * rows["accuracy_loss"].units


def test_a_pass_on_what_the_reference_cannot_do_is_none(tmp_path: Path) -> None:
    answers(tmp_path, dict.fromkeys(SIDES, [False] * 600))
    outcome, rows = judged(tmp_path)
    assert outcome.verdict == "INCONCLUSIVE"
    assert "a candidate that knows nothing" in rows["accuracy_loss"].reason


def test_the_worst_of_several_tasks_decides_and_named_ones_count(tmp_path: Path) -> None:
    right = [True] * 300
    strict = {"reference": right, "fast": [False] * 300}
    for side in SIDES:
        lines = written.lm_eval_samples(right, strict=strict[side])
        written.write(tmp_path / side / "samples_gsm8k_2026-11-29T01-02-03.4.jsonl", *lines)
    outcome, rows = judged(tmp_path)
    assert outcome.verdict == "FAIL"
    assert rows["accuracy_loss"].reason.startswith("gsm8k exact_match (strict-match): ")
    named = '[recorded]\ntasks = ["gsm8k exact_match (flexible-extract)"]\n'
    assert judged(tmp_path, named)[0].verdict == "PASS"
    outcome, _ = judged(tmp_path, '[recorded]\ntasks = ["mmlu"]\n')
    assert "tasks ['mmlu'] are not in the files of both sides" in outcome.reason


def test_a_written_limit_on_what_no_file_tells_is_not_kept(tmp_path: Path) -> None:
    answers(tmp_path, dict.fromkeys(SIDES, [True] * 300))
    outcome, rows = judged(tmp_path, '[budgets]\nrecorded_e2e_ratio = "1.1x"\n')
    assert outcome.verdict == "INCONCLUSIVE"
    assert rows["e2e_ratio"].reason == "the files tell nothing of it"


def test_a_run_of_records_ends_with_its_verdict(pytester: pytest.Pytester, result) -> None:
    sessions(pytester.path, 20)
    (pytester.path / "infopt.toml").write_text(RELEASE + BLOCKS, encoding="utf-8")
    run = pytester.runpytest_inprocess(
        "--infopt", "-p", "no:cacheprovider", "--pyargs", "infopt_suites.gates"
    )
    assert run.ret == ExitStatus.PASSED
    document = result()
    assert {item["gate"] for item in document["items"]} == {"recorded"}
    run.stdout.fnmatch_lines(["*unpaired: times are those of whole sessions*"])
