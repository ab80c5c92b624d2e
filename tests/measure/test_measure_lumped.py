"""Lumping tokens never raises a divergence, and costs nothing where nothing is lumped."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from pytest_infopt.measure.lumped import best_token, lumped_divergence

ROUNDING = 8 * 2.0**-23  # as for float32 in which servers tell log-probabilities
WEIGHTS = st.lists(st.floats(1e-6, 1.0), min_size=6, max_size=6)
SOME = st.sets(st.integers(0, 5))


def row(weights: list[float]) -> dict[int, float]:
    total = math.fsum(weights)
    return {token: math.log(weight / total) for token, weight in enumerate(weights)}


def told(whole: dict[int, float], tokens: set[int]) -> dict[int, float]:
    return {token: whole[token] for token in tokens}


def exact(p: dict[int, float], q: dict[int, float]) -> float:
    return math.fsum(math.exp(p[token]) * (p[token] - q[token]) for token in p)


@given(WEIGHTS, WEIGHTS, SOME, SOME)
def test_it_is_at_most_the_divergence(
    a: list[float], b: list[float], of_p: set[int], of_q: set[int]
) -> None:
    p, q = row(a), row(b)
    lumped = lumped_divergence(told(p, of_p), told(q, of_q))
    assert 0 <= lumped <= exact(p, q) + ROUNDING
    more = lumped_divergence(told(p, of_p | {0}), told(q, of_q | {0}))
    assert lumped <= more + ROUNDING


@given(WEIGHTS, WEIGHTS)
def test_with_every_token_told_it_is_the_divergence(a: list[float], b: list[float]) -> None:
    p, q = row(a), row(b)
    assert math.isclose(lumped_divergence(p, q), exact(p, q), rel_tol=1e-9, abs_tol=ROUNDING)


@given(WEIGHTS, SOME)
def test_equal_rows_are_at_no_distance(a: list[float], tokens: set[int]) -> None:
    assert lumped_divergence(told(row(a), tokens), told(row(a), tokens)) == 0


def test_two_buckets_by_hand() -> None:
    """Of p = (.5, .5) and q = (.25, .75), each told one token alone: KL of two coins."""
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    p, q = {3: math.log(0.5)}, {3: math.log(0.25), 4: math.log(0.7)}
    assert math.isclose(lumped_divergence(p, q), expected)
    assert lumped_divergence({3: math.log(0.5)}, {4: math.log(0.5)}) == 0  # nothing is in both


def test_of_tied_tokens_the_lowest_is_the_best() -> None:
    assert best_token({7: -1.0, 5: -1.0, 2: -3.0}) == 5
