"""Metrics that compare a candidate with itself by another route, and what they may reach."""

from collections.abc import Iterable

from pytest_infopt import BudgetContext, MeasuredTable, Metric, Rule, Unit
from pytest_infopt.results.measured_table import Cell

# An error may be twice what a plain implementation of the same dtype makes: the form of
# FlashAttention's tests (Dao-AILab/flash-attention, tests/test_flash_attn.py).
ERROR_RATIO = 2.0
_SAME_SHAPE = "same_shape_differences"


def error_ratio(name: str, summary: str) -> Metric:
    """An error over the dtype's own; the worst sample counts."""
    return Metric(name, Unit.RATIO, Rule.WORST, summary, self_comparison=True)


def mismatches(name: str, summary: str) -> Metric:
    """How many greedy tokens change where there is no near-tie; the worst sample counts."""
    return Metric(name, Unit.COUNT, Rule.WORST, summary, self_comparison=True)


def same_shape(prefix: str, what: str) -> Metric:
    """How many rows have other bits in a pass of the same shape; the worst sample counts."""
    name = prefix + _SAME_SHAPE
    summary = f"rows with other bits in a pass of the same shape: {what}"
    return Metric(name, Unit.COUNT, Rule.WORST, summary, self_comparison=True)


def observed_table(*rows: tuple[Cell, Cell, Cell, Cell]) -> MeasuredTable:
    """Proof that a route was taken: what, as requested, as resolved, and as observed."""
    columns = ("", "requested", "resolved", "observed")
    return MeasuredTable("requested, resolved, observed", columns, rows)


def limits(metrics: Iterable[Metric], context: BudgetContext) -> dict[str, float]:
    """What holds in any number format: a route changes nothing beyond rounding. That passes of one
    shape have the same bits holds where the format does not let rows see each other."""
    found = {m.name: ERROR_RATIO if m.unit is Unit.RATIO else 0.0 for m in metrics}
    if context.couples_rows:
        return {name: limit for name, limit in found.items() if not name.endswith(_SAME_SHAPE)}
    return found
