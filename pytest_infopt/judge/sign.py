"""Rule SIGN: the median of a paired log ratio against ln(limit) (STATISTICS 4.1).

x = ln(candidate / reference) of one pair, timed in an order drawn by a fair coin. At the limit
itself the sign of x − ln(limit) is then a fair coin too, whatever drift, autocorrelation or heavy
tails the machine adds: validity comes from the coin, not from assumptions on noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..metrics.metric import Metric
from .e_process import SignProcess, first
from .ratio import RatioTest


class SignTest(RatioTest[SignProcess]):
    """The centre is the median."""

    def __init__(self, metric: Metric, limit: float | None) -> None:
        super().__init__(metric, limit, SignProcess)

    def _take(self, values: Sequence[float], weight: int | None) -> None:
        (x,) = values
        self._xs.append(x)
        if self._threshold is not None:
            self._above.observe(x > self._threshold)
            self._below.observe(x < self._threshold)

    def _centre(self) -> float:
        ordered = sorted(self._xs)
        half = len(ordered) // 2
        return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2

    def _lower(self, alpha: float) -> float:
        """An order statistic, because the signs change nowhere else."""
        ordered = sorted(set(self._xs))
        start = 0 if self._contradicted(lambda x: True, alpha) else -1
        if start < 0:
            return -math.inf
        last = len(ordered) - 1
        return ordered[
            first(0, last, lambda i: not self._contradicted(lambda x: x > ordered[i], alpha))
        ]

    def _upper(self, alpha: float) -> float:
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

    def promise(self) -> str:
        return "median"

    def details(self) -> dict[str, Any]:
        if self._threshold is None:
            return {}
        beyond = sum(x > self._threshold for x in self._xs)
        within = sum(x < self._threshold for x in self._xs)
        return {"above_limit": beyond, "below_limit": within}
