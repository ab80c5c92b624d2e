"""Rule MEAN: betting on the mean over documents (STATISTICS 4.2).

A unit's Y ≥ 0 counts harm: the value itself (KL), or 1 − value for a share that should be high. A
metric of ``power`` 2 carries the mean square and is judged on it; limit and estimate are its root.

FAIL says that the mean of Y is above the limit m. PASS says that the mean of min(Y, B) is below it,
with B = 5m, or 3m for such shares. It cannot say more: of thirty documents none may be the one in a
hundred that loses a hundred times as much. How many lie beyond B is for a metric of the tail, a
quantile over documents, which has an error rate of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..metrics.budget import format_value
from ..metrics.metric import Metric, Unit
from .e_process import MeanAbove, MeanBelow
from .protocol import MetricTest, first_to_decide

_CLIP_TOKENS = 3  # so many changed tokens of a document must be charged in full
_HALVINGS = 40


class MeanTest(MetricTest):
    """The mean of Y against the limit m, both ways.

    m = 0 needs no statistics: any positive Y is FAIL, and PASS needs Y = 0 on all ``planned``
    units.
    """

    def __init__(self, metric: Metric, limit: float | None, planned: int) -> None:
        super().__init__(metric, limit)
        self.share = metric.unit is Unit.SHARE
        self.reversed = self.share and metric.higher_is_better
        self.clip = clip_factor(metric)
        self.planned = planned
        self._ys: list[float] = []
        self._weights: list[int | None] = []
        self._m = None if limit is None else self._harm(limit**metric.power)
        self._above = MeanAbove(self._m) if self._m else None
        self._below = MeanBelow(self._m) if self._m else None
        self.statistical = self._m != 0
        self._beyond = 0

    def _harm(self, value: float) -> float:
        return 1 - value if self.reversed else value

    def _unharm(self, y: float) -> float:
        """The metric's value whose harm is y."""
        return float((1 - y if self.reversed else y) ** (1 / self.metric.power))

    def _take(self, values: Sequence[float], weight: int | None) -> None:
        (value,) = values
        y = self._harm(value)
        if y < 0:
            # KL and shares cannot be negative; their rounding can.
            if self._m is not None and y < -self._m:
                raise ValueError(f"{self.metric.name}: {value!r} is out of the metric's range")
            y = 0.0
        self._ys.append(y)
        self._weights.append(weight)
        if self._above is not None and self._below is not None:
            bound = self._bound(self._below.m, weight)
            self._above.observe(y)
            self._below.observe(y, bound)
            self._beyond += y > bound

    def _bound(self, m: float, weight: int | None) -> float:
        """Where Y is clipped: never below what a few tokens of the unit may amount to."""
        if not self.share:
            return self.clip * m
        floor = _CLIP_TOKENS / weight if weight else 0.0
        return min(1.0, max(self.clip * m, floor))

    @property
    def p_pass(self) -> float:
        if self._below is not None:
            return self._below.p
        kept = self._m == 0 and self.units >= self.planned and not any(self._ys)
        return 0.0 if kept else 1.0

    @property
    def p_fail(self) -> float:
        if self._above is not None:
            return self._above.p
        return 0.0 if self._m == 0 and any(self._ys) else 1.0

    @property
    def estimate(self) -> float:
        self._seen()
        return self._unharm(math.fsum(self._ys) / len(self._ys))

    def interval(self, alpha: float) -> tuple[float, float] | None:
        self._seen()
        ends = self._unharm(self._lower(alpha / 2)), self._unharm(self._upper(alpha / 2))
        return (ends[1], ends[0]) if self.reversed else ends

    def _lower(self, alpha: float) -> float:
        """The largest mean that the units contradict from above, or 0."""

        def rejected(m: float) -> bool:
            process = MeanAbove(m)
            for y in self._ys:
                process.observe(y)
            return process.log_max >= -math.log(alpha)

        top = max(self._ys)
        return _halve(0.0, top, rejected)[0] if math.isfinite(top) else math.inf

    def _upper(self, alpha: float) -> float:
        """The smallest mean that the units contradict from below, or the metric's largest value."""

        def rejected(m: float) -> bool:
            process = MeanBelow(m)
            for y, weight in zip(self._ys, self._weights, strict=True):
                process.observe(y, self._bound(m, weight))
            return process.log_max >= -math.log(alpha)

        top = 1.0 if self.share else self._reach(rejected)
        if not top or math.isinf(top):
            return top
        return _halve(0.0, top, lambda m: not rejected(m))[1]

    def _reach(self, rejected: Callable[[float], bool]) -> float:
        """A mean that is rejected, 0 where every positive one is, infinity where none is."""
        top = max(self._ys)
        if math.isinf(top):
            return math.inf
        if not top:  # all zero: nothing sets a scale, and any m does as well as 1
            return 0.0 if rejected(1.0) else math.inf
        for power in range(_HALVINGS):
            if rejected(top * 2.0**power):
                return top * 2.0**power
        return math.inf

    def needed(self, alpha_pass: float, alpha_fail: float) -> int | None:
        if self._below is None or self._above is None:
            left = self.planned - self.units
            return left if self._m == 0 and left > 0 else None
        return first_to_decide((self._below, alpha_pass), (self._above, alpha_fail))

    def detectable(self, alpha: float) -> float | None:
        """If the same values were scaled up until they fail, their mean would be so far off."""
        lower = self._lower(alpha)
        if not self._m or not lower or not math.isfinite(lower):
            return None
        harm = self._m * math.fsum(self._ys) / len(self._ys) / lower
        root = 1 / self.metric.power
        return float(harm**root - self._m**root)

    def details(self) -> dict[str, Any]:
        worst = max(range(len(self._ys)), key=self._ys.__getitem__)
        details: dict[str, Any] = {"worst": self._unharm(self._ys[worst]), "worst_unit": worst}
        if self._above is not None:
            details["share_beyond_clip"] = self._beyond / self.units
        return details

    def promise(self) -> str:
        if not self._m:
            return ""
        clip = self._unharm(min(1.0, self.clip * self._m) if self.share else self.clip * self._m)
        way = "down" if self.reversed else "up"
        return f"mean, each counted {way} to {format_value(self.metric, clip)}"

    def state(self) -> list[float]:
        rows = [process.state() for process in (self._above, self._below) if process]
        return [float(self.units), *(x for row in rows for x in row)]


def clip_factor(metric: Metric) -> float:
    """B / m: 3 for shares that should be high, 5 else (STATISTICS 4.2)."""
    return 3.0 if metric.unit is Unit.SHARE and metric.higher_is_better else 5.0


def _halve(low: float, high: float, holds: Callable[[float], bool]) -> tuple[float, float]:
    """Bracket the point below which ``holds`` is true and above which it is not."""
    if low == high:
        return low, high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low, high
