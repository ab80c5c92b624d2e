"""What a verification says of results that a gate made otherwise than its samples do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_infopt.console.runs import FinishedRun
from pytest_infopt.console.verification import verify
from pytest_infopt.judge.gate_judge import GateJudge
from pytest_infopt.judge.terms import terms_of
from pytest_infopt.metrics.budget import Budget
from pytest_infopt.metrics.metric import Metric, Rule, Unit
from pytest_infopt.results.gate_result import GateResult
from pytest_infopt.results.run_result import RunResult
from pytest_infopt.results.sample import Sample
from pytest_infopt.results.verdict import Judgement, Verdict
from pytest_infopt.run.judging import judgements_of, take
from pytest_infopt.store.journal import Journal

RATIO = Metric("ratio", Unit.RATIO, Rule.SIGN, "a ratio")


def judge() -> GateJudge:
    return GateJudge(
        [RATIO], {"ratio": Budget(RATIO, 1.1)}, alpha_pass=0.01, alpha_fail=0.01, planned=99
    )


def collected(journal: Journal, phase: str, log_ratios: list[float]) -> list[Judgement]:
    """A collection of these samples in the journal, and what its judge came to."""
    made = judge()
    journal.write_collection("speed", "fast", phase, terms_of(made))
    samples = [Sample(f"pair-{i}", 1, {"ratio": x}) for i, x in enumerate(log_ratios)]
    for index, sample in enumerate(samples):
        journal.write_sample("speed", "fast", phase, index, sample)
        take(made, sample)
    return judgements_of(made, samples)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.jsonl")
    yield made
    made.close()


def run_of(journal: Journal, judgements: list[Judgement]) -> FinishedRun:
    gate = GateResult("speed", "fast", 1.0, judgements)
    result = RunResult("0", "", "id", {}, {}, [], [gate], 1.0)
    return FinishedRun(journal.path.parent, result)


def test_a_fail_that_was_not_confirmed_is_held_back(journal: Journal) -> None:
    (first,) = collected(journal, "main", [1.0] * 20)
    collected(journal, "confirmation", [0.0] * 20)
    assert first.verdict is Verdict.FAIL
    held = replace(first, verdict=Verdict.INCONCLUSIVE, reason="not confirmed")
    verification = verify(run_of(journal, [held]))
    assert verification.holds
    assert verification.held_back == ["speed of fast, ratio: not confirmed"]


@pytest.mark.parametrize("verdict", [Verdict.PASS, None])
def test_a_fail_does_not_become_anything_else(journal: Journal, verdict: Verdict | None) -> None:
    (first,) = collected(journal, "main", [1.0] * 20)
    assert not verify(run_of(journal, [replace(first, verdict=verdict)])).holds


def test_an_undecided_one_does_not_become_a_pass(journal: Journal) -> None:
    (first,) = collected(journal, "main", [0.0] * 3)
    assert first.verdict is Verdict.INCONCLUSIVE
    assert not verify(run_of(journal, [replace(first, verdict=Verdict.PASS)])).holds


def test_what_was_not_measured_may_be_undecided_and_nothing_else(journal: Journal) -> None:
    collected(journal, "main", [0.0] * 20)
    unmeasured = Judgement("other", None, 0, 0, Verdict.INCONCLUSIVE, 1.0, reason="no engine")
    kept = judgements_of(judge_with([0.0] * 20), [])
    assert verify(run_of(journal, [*kept, unmeasured])).holds
    claimed = replace(unmeasured, verdict=Verdict.PASS)
    assert not verify(run_of(journal, [*kept, claimed])).holds


def judge_with(log_ratios: list[float]) -> GateJudge:
    made = judge()
    for index, x in enumerate(log_ratios):
        take(made, Sample(f"pair-{index}", 1, {"ratio": x}))
    return made
