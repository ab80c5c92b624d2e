"""Where a value and its interval stand between "as the reference" and the limit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...metrics.metric import Metric, Rule, Unit
from ...results.verdict import Judgement
from ..wording import known_metric

_LOWEST, _HIGHEST = -0.5, 2.0  # 0 is as the reference, 1 the limit; what lies beyond is cut off


@dataclass(frozen=True)
class Gauge:
    """Places on a bar, in percent of its width; ``low`` and ``high`` end the interval."""

    value: float
    low: float
    high: float
    equal: float
    limit: float


def gauge(judgement: Judgement) -> Gauge | None:
    """None where there is no limit, no value, or no room between the reference and the limit: it
    may ask for better than the reference is."""
    metric = known_metric(judgement.metric)
    if metric is None or judgement.budget is None or judgement.value is None:
        return None
    equal = _equal(metric)
    if equal is None or not math.isfinite(judgement.budget):
        return None
    width = judgement.budget - equal
    if width == 0 or (width < 0) is not metric.higher_is_better:
        return None
    ends = judgement.interval or (judgement.value, judgement.value)
    if any(map(math.isnan, (judgement.value, *ends))):
        return None
    value, *shares = (_place((each - equal) / width) for each in (judgement.value, *ends))
    return Gauge(value, min(shares), max(shares), _place(0.0), _place(1.0))


def _equal(metric: Metric) -> float | None:
    """The value of a candidate that equals the reference; None where nobody can say."""
    if metric.equal is not None:
        return metric.equal
    if metric.unit is Unit.RATIO and metric.rule in (Rule.SIGN, Rule.LOG_MEAN):
        return 1.0
    if metric.higher_is_better:
        return 1.0 if metric.unit is Unit.SHARE else None
    return 0.0


def _place(share: float) -> float:
    kept = min(max(share, _LOWEST), _HIGHEST)
    return round(100 * (kept - _LOWEST) / (_HIGHEST - _LOWEST), 1)
