"""How a judgement reads: its numbers with units, in the words that all reports share."""

from __future__ import annotations

import math

from ..gates.registry import gates, metrics
from ..metrics.budget import Budget, format_value
from ..results.verdict import Judgement, Verdict

ABSENT = "–"


def value_text(metric: str, value: float | None) -> str:
    """A number in its metric's unit; one that is not ours shows four digits and no unit."""
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    known = metrics().get(metric)
    return format_value(known, value) if known else f"{value:.4g}"


def budget_text(judgement: Judgement) -> str:
    """The limit with its direction: "≤ 0.05 nats"."""
    if judgement.budget is None:
        return ABSENT
    known = metrics().get(judgement.metric)
    if known is None or not math.isfinite(judgement.budget):
        at_least = known.higher_is_better if known else judgement.details.get("at_least", False)
        sign = "≥" if at_least else "≤"
        return f"{sign} {value_text(judgement.metric, judgement.budget)}"
    return Budget(known, judgement.budget).describe()


def interval_text(judgement: Judgement) -> str:
    """The interval in brackets, without the unit where it is the value's; "" if there is none."""
    if judgement.interval is None:
        return ""
    low, high = (value_text(judgement.metric, bound) for bound in judgement.interval)
    unit = value_text(judgement.metric, judgement.value).partition(" ")[2]
    if unit and {low.partition(" ")[2], high.partition(" ")[2]} <= {unit, ""}:
        low, high = low.partition(" ")[0], high.partition(" ")[0]
    return f"[{low}, {high}]"


def estimate_text(judgement: Judgement) -> str:
    """The value and its interval."""
    value = value_text(judgement.metric, judgement.value)
    return f"{value} {interval_text(judgement)}".rstrip()


def count_text(judgement: Judgement) -> str:
    """n and, in parentheses, the number of independent units."""
    return f"{judgement.n:,} ({judgement.clusters:,})"


def verdict_text(judgement: Judgement) -> str:
    """The verdict; a dash for a metric that is reported but has no budget."""
    return ABSENT if judgement.verdict is None else judgement.verdict.value


def cluster_noun(gate: str) -> str:
    """What one independent unit of the gate is, in the plural."""
    spec = gates().get(gate)
    return "samples" if spec is None else spec.samples


def remedy_text(gate: str, judgement: Judgement) -> str:
    """What would decide an inconclusive metric; "" where the judge could not say."""
    parts = []
    if judgement.needed is not None:
        parts.append(f"need about {judgement.needed:,} more {cluster_noun(gate)}")
    if judgement.detectable is not None:
        excess = value_text(judgement.metric, judgement.detectable)
        parts.append(f"smallest excess over the limit that this many would catch: {excess}")
    return "; ".join(parts)


def duration_text(seconds: float) -> str:
    """Seconds for a table."""
    return f"{seconds:.1f} s"


def tally_text(verdicts: list[Verdict]) -> str:
    """How many gates came to which verdict: "9 PASS, 1 FAIL"."""
    counts = [(verdict, verdicts.count(verdict)) for verdict in Verdict]
    return ", ".join(f"{n} {verdict}" for verdict, n in counts if n) or "no gate ran"
