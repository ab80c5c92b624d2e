"""Errors of rows beside a control arm's distribution."""

from __future__ import annotations

import math

import pytest
import torch
from measure_fakes import ToyTransformer
from scipy.stats import mannwhitneyu

from pytest_infopt.measure import OUTPUT_FACTOR, Difference, SelfComparison, least_factor

ROWS, VOCABULARY = 24, 32
SMALL, NEAR_TIE = 1e-3, 1.0  # dtype errors of the usual row, and of one at a near-tie


def lognormal(seed: int, count: int, spread: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(count, generator=generator, dtype=torch.float64)).exp()


@pytest.mark.parametrize(("rows", "others"), [(8, 48), (12, 12), (24, 40), (60, 30)])
@pytest.mark.parametrize("alpha", [1e-5, 1e-3])
def test_the_bound_is_that_of_the_exact_test(rows: int, others: int, alpha: float) -> None:
    errors, control = 5 * lognormal(rows, rows), lognormal(others + 1, others)
    factor = least_factor(errors, control, alpha)

    def chance(assumed: float) -> float:
        test = mannwhitneyu(errors / assumed, control, alternative="greater", method="exact")
        return float(test.pvalue)

    if factor:
        assert chance(factor * (1 - 1e-9)) <= alpha
    assert chance(max(2 * factor, 5 * factor, 1.0) * 5) > alpha


def test_the_bound_exceeds_the_factor_as_rarely_as_declared() -> None:
    alpha, trials = 0.02, 2000
    beyond = sum(
        least_factor(3 * lognormal(2 * i, 20), lognormal(2 * i + 1, 30), alpha) > 3
        for i in range(trials)
    )
    assert alpha / 4 < beyond / trials < alpha + 4 * math.sqrt(alpha / trials)


def test_no_bits_that_differ_are_no_error_and_few_rows_say_nothing() -> None:
    control = torch.ones(ROWS)
    assert least_factor(torch.zeros(ROWS), torch.zeros(ROWS)) == 0
    assert least_factor(torch.ones(ROWS), torch.zeros(ROWS)) == math.inf
    assert least_factor(torch.full((3,), 1e9), control) == 0
    assert least_factor(torch.full((ROWS,), 7.0), control) == 7


def compared(size: float, of_control: float = 0.0, of_lengths: float = 0.0) -> SelfComparison:
    """Rows that are ``size`` off, of an engine whose dtype costs little but at a near-tie."""
    pattern = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(VOCABULARY // 2)
    oracle = torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(1)).double()
    costs = torch.full((ROWS, 1), SMALL, dtype=torch.float64)
    costs[5] = NEAR_TIE
    lengths = Difference(rows=(of_lengths,) * ROWS)
    engine = ToyTransformer(torch.float32)
    found = SelfComparison(engine, oracle, oracle + costs * pattern, "p", 2, lambda: lengths)
    own = oracle + of_control * pattern
    found.add("route", oracle + size * pattern, oracle, control=lambda: (own, oracle))
    return found


@pytest.mark.parametrize("size", [10 * SMALL, 100 * SMALL])
def test_rows_that_are_a_little_off_are_seen_however_far_off_a_near_tie_is(size: float) -> None:
    assert size < NEAR_TIE
    assert compared(size).errors["route"] == pytest.approx(size / SMALL, rel=0.01)
    assert compared(SMALL).errors["route"] <= OUTPUT_FACTOR


def test_what_the_control_arm_differs_by_is_granted() -> None:
    assert compared(10 * SMALL, of_control=10 * SMALL).errors["route"] == pytest.approx(1)
    assert compared(10 * SMALL, of_lengths=10 * SMALL).errors["route"] == pytest.approx(1)
    assert compared(30 * SMALL, of_control=10 * SMALL).errors["route"] == pytest.approx(3)
