"""Exact binomial intervals, against scipy and against their definition."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from infopt_suites.gates.semantic_cache.proportion import CONFIDENCE, Proportion
from scipy import stats

from pytest_infopt.binomial import upper_bound

TAIL = (1 - CONFIDENCE) / 2
COUNTS = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
# A bound is found to the last bits of a rate at which the summed tail equals alpha; the sum of n
# terms, each through logarithms of up to n·ln n, is off by some n·ln n roundings.
ROUNDING = 3000 * math.log(3000) * 2**-52


@given(COUNTS)
def test_intervals_are_those_of_scipy(counts: tuple[int, int]) -> None:
    events, trials = counts
    exact = stats.binomtest(events, trials).proportion_ci(CONFIDENCE, method="exact")
    low, high = Proportion(events, trials).interval
    assert low == pytest.approx(exact.low, rel=ROUNDING, abs=ROUNDING)
    assert high == pytest.approx(exact.high, rel=ROUNDING, abs=ROUNDING)


@given(COUNTS, st.floats(1e-6, 0.5))
def test_at_the_upper_bound_so_few_events_have_probability_alpha(
    counts: tuple[int, int], alpha: float
) -> None:
    events, trials = counts
    bound = upper_bound(events, trials, alpha)
    if events == trials:
        assert bound == 1
    else:
        # A rate's last bit moves the probability by up to n times its relative size.
        assert stats.binom.cdf(events, trials, bound) == pytest.approx(alpha, rel=2 * ROUNDING)


@given(st.integers(1, 10**6))
def test_of_no_event_the_bound_has_a_closed_form(trials: int) -> None:
    low, high = Proportion(0, trials).interval
    assert low == 0
    assert high == pytest.approx(1 - TAIL ** (1 / trials), rel=2**-52 * trials)
    assert Proportion(trials, trials).interval == (1 - high, 1.0)


@given(COUNTS)
def test_turning_events_round_turns_the_interval_round(counts: tuple[int, int]) -> None:
    events, trials = counts
    low, high = Proportion(events, trials).interval
    turned = Proportion(trials - events, trials).interval
    assert turned == pytest.approx((1 - high, 1 - low), rel=0, abs=2**-52)
    assert low <= events / trials <= high


def test_nothing_tried_says_nothing() -> None:
    nothing = Proportion(0, 0)
    assert nothing.share is None
    assert nothing.interval == (0.0, 1.0)


@pytest.mark.parametrize(("events", "trials"), [(-1, 3), (4, 3), (0, -1)])
def test_impossible_counts_are_refused(events: int, trials: int) -> None:
    with pytest.raises(ValueError, match=f"{events} events of {trials}"):
        Proportion(events, trials)
