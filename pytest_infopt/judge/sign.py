"""Rule SIGN: the median of a paired log ratio against ln(limit) (STATISTICS 4.1).

x = ln(candidate / reference) of one pair, timed in an order drawn by a fair coin. At the limit
itself the sign of x − ln(limit) is then a fair coin too, whatever drift, autocorrelation or heavy
tails the machine adds: validity comes from the coin, not from assumptions on noise.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from ..metrics.metric import Metric
from .e_process import SignProcess, first
from .protocol import BettingTest


class SignTest(BettingTest):
    """Values are log ratios; limit, estimate and interval are ratios: exp of a median."""

    def __init__(self, metric: Metric, limit: float | None) -> None:
        super().__init__(metric, limit)
        if limit is not None and not limit > 0:
            raise ValueError(f"limit {limit!r} of {metric.name}: a ratio must be above 0")
        self._threshold = None if limit is None else math.log(limit)
        self._xs = array("d")
        self._above = SignProcess()
        self._below = SignProcess()
        ends = (self._above, self._below) if metric.higher_is_better else (self._below, self._above)
        self.keeps, self.breaks = ends

    def _take(self, values: Sequence[float], weight: int | None) -> None:
        (x,) = values
        self._xs.append(x)
        if self._threshold is not None:
            self._above.observe(x > self._threshold)
            self._below.observe(x < self._threshold)

    @property
    def estimate(self) -> float:
        return math.exp(self._median())

    def _median(self) -> float:
        self._seen()
        ordered = sorted(self._xs)
        half = len(ordered) // 2
        return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2

    def interval(self, alpha: float) -> tuple[float, float] | None:
        self._seen()
        return math.exp(self._lower(alpha / 2)), math.exp(self._upper(alpha / 2))

    def _lower(self, alpha: float) -> float:
        """The largest x up to which every median is contradicted from above; an order statistic,
        because the signs change nowhere else."""
        ordered = sorted(set(self._xs))
        start = 0 if self._contradicted(lambda x: True, alpha) else -1
        if start < 0:
            return -math.inf
        last = len(ordered) - 1
        return ordered[
            first(0, last, lambda i: not self._contradicted(lambda x: x > ordered[i], alpha))
        ]

    def _upper(self, alpha: float) -> float:
        """The smallest x from which on every median is contradicted from below."""
        ordered = sorted(set(self._xs), reverse=True)
        if not self._contradicted(lambda x: True, alpha):
            return math.inf
        last = len(ordered) - 1
        return ordered[
            first(0, last, lambda i: not self._contradicted(lambda x: x < ordered[i], alpha))
        ]

    def _contradicted(self, success: Callable[[float], bool], alpha: float) -> bool:
        process, target = SignProcess(), -math.log(alpha)
        for x in self._xs:
            process.observe(success(x))
            if process.log_max >= target:
                return True
        return False

    def detectable(self, alpha: float) -> float | None:
        """If the same log ratios were shifted until they fail, their median would stand this far
        off (a factor, less 1 times the limit)."""
        if self.limit is None:
            return None
        if self.metric.higher_is_better:
            reach = self._median() - self._upper(alpha)
        else:
            reach = self._median() - self._lower(alpha)
        return abs(self.limit * math.expm1(reach)) if math.isfinite(reach) else None

    def details(self) -> dict[str, Any]:
        if self._threshold is None:
            return {}
        beyond = sum(x > self._threshold for x in self._xs)
        within = sum(x < self._threshold for x in self._xs)
        return {"above_limit": beyond, "below_limit": within}

    def state(self) -> list[float]:
        return [*self._xs, *self._above.state(), *self._below.state()]
