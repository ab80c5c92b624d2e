"""Evidence of a trend: as rare as declared in random orders, and soon there where values rise."""

from __future__ import annotations

import math
import random

import pytest
from infopt_suites.gates.quality.limits import TREND

from pytest_infopt.judge.trend import trend_evidence


def test_evidence_of_a_trend_is_as_rare_as_declared() -> None:
    """P(e ≥ 1/α) ≤ α: in 4,000 random orders of heavy-tailed values, α = 1/20 and 1/100."""
    draw = random.Random(1)
    found = [trend_evidence(draw.paretovariate(1.1) for _ in range(40)) for _ in range(4000)]
    for alpha in (1 / 20, 1 / 100):
        share = sum(value >= 1 / alpha for value in found) / len(found)
        assert share <= alpha
    assert trend_evidence([1.0] * 40) == 1.0


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("after", [24, 60])
def test_what_gets_worse_is_seen_in_some_forty_documents(seed: int, after: int) -> None:
    draw = random.Random(seed)
    means = [sum(draw.lognormvariate(0, 0.5) for _ in range(63)) for _ in range(after + 40)]
    values = [mean * (1 if i < after else 3) for i, mean in enumerate(means)]
    assert trend_evidence(values) > TREND
    assert trend_evidence(reversed(values)) < TREND


def test_evidence_of_very_many_rising_values_is_a_number() -> None:
    assert TREND < trend_evidence(map(float, range(3000))) < math.inf
