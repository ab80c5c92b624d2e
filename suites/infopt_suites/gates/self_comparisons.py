"""Metrics that compare a candidate with itself by another route, and what they may reach."""

from collections.abc import Iterable

from pytest_infopt import Metric, Rule, Unit

# An error may be twice what a plain implementation of the same dtype makes: the form of
# FlashAttention's tests (Dao-AILab/flash-attention, tests/test_flash_attn.py).
ERROR_RATIO = 2.0


def error_ratio(name: str, summary: str) -> Metric:
    """An error over the dtype's own; the worst sample counts."""
    return Metric(name, Unit.RATIO, Rule.WORST, summary, self_comparison=True)


def mismatches(name: str, summary: str) -> Metric:
    """How many greedy tokens change where there is no near-tie; the worst sample counts."""
    return Metric(name, Unit.COUNT, Rule.WORST, summary, self_comparison=True)


def limits(metrics: Iterable[Metric]) -> dict[str, float]:
    """What holds in any number format: a route changes nothing beyond rounding."""
    return {m.name: ERROR_RATIO if m.unit is Unit.RATIO else 0.0 for m in metrics}
