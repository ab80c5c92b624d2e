"""Rule PROPORTION: exact tails and intervals, and no verdict before the last trial."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_infopt.binomial import at_most, upper_bound
from pytest_infopt.errors import ConfigurationError
from pytest_infopt.gates.registry import metrics
from pytest_infopt.judge.gate_judge import GateJudge
from pytest_infopt.judge.planning import fewest_to_pass
from pytest_infopt.judge.proportion import ProportionTest
from pytest_infopt.metrics.budget import Budget, parse_budget
from pytest_infopt.results.verdict import Verdict

PRECISION = metrics()["semantic_hit_precision"]
counts = st.integers(1, 600).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
rates = st.floats(0.001, 0.999)


def fed(events: int, trials: int, limit: float | None = 0.99, planned: int = 0) -> ProportionTest:
    test = ProportionTest(PRECISION, limit, planned or trials)
    for index in range(trials):
        test.update(float(index < events))
    return test


@settings(deadline=None)
@given(
    count=st.integers(1, 150).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    rate=rates,
)
def test_tails_are_the_sum_of_rational_terms(count: tuple[int, int], rate: float) -> None:
    """scipy's tails lose half of their digits where they are small; fractions lose none."""
    events, trials = count
    p = Fraction(rate)
    terms = (math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(events + 1))
    exact = float(sum(terms))
    # Each logarithm of a term sums up to n·ln n, and so do its roundings.
    largest = trials * (math.log(trials) - min(math.log(rate), math.log1p(-rate))) + 1
    assert at_most(events, trials, rate) == pytest.approx(exact, rel=4 * largest * 2**-52, abs=0)


@given(count=counts, alpha=st.sampled_from([0.001, 0.01, 0.025, 0.05, 0.2]))
def test_the_interval_is_that_of_clopper_and_pearson(count: tuple[int, int], alpha: float) -> None:
    events, trials = count
    oracle = stats.binomtest(events, trials).proportion_ci(1 - 2 * alpha, method="exact")
    low, high = fed(events, trials).interval(2 * alpha) or (0, 0)
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=1e-9)


@given(count=counts, limit=rates)
def test_p_values_are_the_exact_one_sided_tests(count: tuple[int, int], limit: float) -> None:
    events, trials = count
    test = fed(events, trials, limit)
    for found, side in ((test.p_pass, "greater"), (test.p_fail, "less")):
        oracle = stats.binomtest(events, trials, limit, alternative=side).pvalue
        assert found == pytest.approx(oracle, rel=1e-6, abs=1e-12)


def test_nothing_is_decided_before_the_last_trial() -> None:
    test = fed(500, 500, planned=501)
    assert (test.p_pass, test.p_fail) == (1.0, 1.0)
    assert test.interval(0.1) == (0.0, 1.0)
    test.update(1.0)
    assert test.p_pass < 0.01


@pytest.mark.parametrize(
    ("right", "hits", "verdict"),
    [(459, 459, Verdict.PASS), (458, 458, Verdict.INCONCLUSIVE), (440, 460, Verdict.FAIL)],
)
def test_verdicts_of_a_gate(right: int, hits: int, verdict: Verdict) -> None:
    budget = Budget(PRECISION, 0.99)
    judge = GateJudge(
        [PRECISION], {PRECISION.name: budget}, alpha_pass=0.01, alpha_fail=0.01, planned=hits
    )
    for index in range(hits):
        judge.update({PRECISION.name: float(index < right)})
    (judgement,) = judge.judgements(exhausted=True)
    assert judgement.verdict is verdict
    if verdict is Verdict.INCONCLUSIVE:
        assert judgement.needed == 1


@pytest.mark.parametrize(("alpha", "least"), [(0.05, 299), (0.01, 459)])
def test_the_plan_knows_the_fewest_hits(alpha: float, least: int) -> None:
    assert fewest_to_pass(Budget(PRECISION, 0.99), alpha) == least
    assert fed(least, least).p_pass <= alpha < fed(least - 1, least - 1).p_pass


def test_what_is_needed_suffices() -> None:
    test = fed(300, 301)
    needed = test.needed(0.05, 0.05)
    assert needed is not None
    assert fed(300 + needed, 301 + needed).p_pass <= 0.05
    assert fed(299 + needed, 300 + needed).p_pass > 0.05


def test_a_trial_is_an_event_or_none() -> None:
    with pytest.raises(ValueError, match=r"a trial is 0 or 1, got 0\.5"):
        ProportionTest(PRECISION, None, 1).update(0.5)


def test_a_rate_without_exception_is_no_limit() -> None:
    with pytest.raises(ConfigurationError, match="no number of trials shows"):
        parse_budget(PRECISION, "100 %", "here")


def test_every_trial_an_event_has_no_bound_below_one() -> None:
    assert upper_bound(7, 7, 0.05) == 1.0
    assert upper_bound(0, 10, 0.05) == pytest.approx(1 - 0.05**0.1)
