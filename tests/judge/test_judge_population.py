"""A population's own mean: exact at its last unit, and never decided against it before."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_infopt.gates.registry import metrics
from pytest_infopt.judge.gate_judge import GateJudge
from pytest_infopt.judge.rules import make_test
from pytest_infopt.judge.terms import judge_of, terms_of
from pytest_infopt.metrics.budget import Budget
from pytest_infopt.results.verdict import Verdict

ALPHA = {"alpha_pass": 0.01, "alpha_fail": 0.01}
# What a population's value is, by its definition.
DEFINITIONS = {
    "kl_mean": lambda values: sum(values) / len(values),
    "top1_agreement": lambda values: sum(values) / len(values),
    "true_probability_rms": lambda values: math.sqrt(sum(values) / len(values)),
    "perplexity_ratio": lambda values: math.exp(sum(values) / len(values)),
}


def kept(name: str, values: list[float], limit: float) -> bool:
    if name == "kl_document_p90":
        return sum(value > limit for value in values) / len(values) <= 1 - 0.9
    value = DEFINITIONS[name](values)
    return value >= limit if metrics()[name].higher_is_better else value <= limit


@pytest.mark.parametrize("name", [*DEFINITIONS, "kl_document_p90"])
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.integers(1, 997))
def test_the_verdict_is_that_of_the_whole_population(
    name: str, numbers: list[int], thousandths: int
) -> None:
    values = [number / 1000 for number in numbers]
    limit = thousandths / 1000 + (name == "perplexity_ratio")
    if name in DEFINITIONS and math.isclose(DEFINITIONS[name](values), limit, rel_tol=1e-9):
        return  # whose side rounding decides
    test = make_test(metrics()[name], limit, len(values), population=True)
    decided = []
    for value in values:
        test.update([value] if name == "kl_document_p90" else value)
        assert not (test.p_pass == 0 and test.p_fail == 0)
        decided.append((test.p_pass == 0, test.p_fail == 0))
    expected = kept(name, values, limit)
    assert decided[-1] == (expected, not expected)
    for early in decided:
        assert early in ((False, False), decided[-1])


def test_no_pass_before_all_of_what_has_no_bound_is_seen() -> None:
    values = [0.0] * 40
    test = make_test(metrics()["kl_mean"], 0.1, 40, population=True)
    for place, value in enumerate(values):
        assert test.p_pass == 1.0
        assert test.needed(0.01, 0.01) == 40 - place
        test.update(value)
    assert (test.p_pass, test.needed(0.01, 0.01)) == (0.0, None)


def test_a_gate_ends_where_nothing_left_could_change_it_and_judges_again_alike() -> None:
    shuffled = [0.5] * 10 + [0.0] * 30
    random.Random(0).shuffle(shuffled)
    budgets = {"kl_mean": Budget(metrics()["kl_mean"], 0.1)}
    judge = GateJudge(
        [metrics()["kl_mean"]], budgets, planned=40, samples="documents", population=True, **ALPHA
    )
    again = judge_of(terms_of(judge))
    for value in shuffled:
        judge.update({"kl_mean": value})
        again.update({"kl_mean": value})
        if judge.decided:
            break
    assert sum(shuffled[: judge.judgements(False)[0].units]) > 40 * 0.1  # no earlier, no later
    (row,) = judge.judgements(exhausted=True)
    assert row.verdict is Verdict.FAIL
    assert again.judgements(exhausted=True) == [row]


def test_what_is_left_is_what_is_needed() -> None:
    budgets = {"kl_mean": Budget(metrics()["kl_mean"], 0.1)}
    judge = GateJudge(
        [metrics()["kl_mean"]], budgets, planned=40, samples="documents", population=True, **ALPHA
    )
    for _ in range(25):
        judge.update({"kl_mean": 0.0})
    (row,) = judge.judgements(exhausted=True)
    assert (row.verdict, row.needed) == (Verdict.INCONCLUSIVE, 15)
