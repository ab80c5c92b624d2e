"""Rule LOG_MEAN: the mean of a log ratio against ln(limit): a ratio of perplexities, a geometric
mean of pairs.

A mean without bounds can be promised by nobody, so each x = ln(candidate / reference) counts within
±W around ln(limit), with W three times |ln(limit)|, at least .05: limit⁻² … limit⁴. The bounds are
symmetric about the limit. Where a fair coin drew the pair's order, x − ln(limit) is then as likely
up as down at the limit, whatever drift, autocorrelation or heavy tails the machine adds. Unlike the
median, the mean sees a candidate that is slow on a part of the requests: on more than a quarter of
them, if they are slow without end and the others not at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..metrics.budget import format_value
from ..metrics.metric import Metric
from .e_process import EProcess
from .ratio import RatioTest

BETS = (0.1, 0.35, 0.95)
_TIMES = 3.0  # W / |ln(limit)|
_LEAST = 0.05  # of W, for limits near 1
_UNLIMITED = 0.5  # W where no limit was set: a factor of 1.6
_HALVINGS = 40


class LogMeanTest(RatioTest[EProcess]):
    """Estimate: exp of the plain mean, which is what others publish."""

    def __init__(self, metric: Metric, limit: float | None) -> None:
        super().__init__(metric, limit, _bets)
        distance = None if self._threshold is None else abs(self._threshold)
        self.width = _UNLIMITED if distance is None else max(_TIMES * distance, _LEAST)

    def _take(self, values: Sequence[float], weight: int | None) -> None:
        (x,) = values
        self._xs.append(x)
        if self._threshold is not None:
            gain = self._gain(x, self._threshold)
            self._above.update(gain)
            self._below.update(-gain)

    def _gain(self, x: float, threshold: float) -> float:
        return max(-1.0, min(1.0, (x - threshold) / self.width))

    def _centre(self) -> float:
        return math.fsum(self._xs) / len(self._xs)

    def _lower(self, alpha: float) -> float:
        return self._end(1.0, alpha)

    def _upper(self, alpha: float) -> float:
        return self._end(-1.0, alpha)

    def _end(self, side: float, alpha: float) -> float:
        """Where contradiction from above (``side`` 1) or below (−1) ends."""
        finite = [x for x in self._xs if math.isfinite(x)]
        worst = (min if side > 0 else max)(finite, default=0.0) - side * self.width
        inside = (max if side > 0 else min)(finite, default=0.0) + side * self.width
        if not self._contradicted(worst, side, alpha):
            return -side * math.inf
        for _ in range(_HALVINGS):
            middle = (worst + inside) / 2
            if self._contradicted(middle, side, alpha):
                worst = middle
            else:
                inside = middle
        return inside

    def _contradicted(self, threshold: float, side: float, alpha: float) -> bool:
        process, target = _bets(), -math.log(alpha)
        for x in self._xs:
            process.update(side * self._gain(x, threshold))
            if process.log_max >= target:
                return True
        return False

    def promise(self) -> str:
        if self._threshold is None:
            return ""
        low, high = (math.exp(self._threshold + end) for end in (-self.width, self.width))
        ends = f"{format_value(self.metric, low)} to {format_value(self.metric, high)}"
        return f"geometric mean, each counted from {ends}"

    def details(self) -> dict[str, Any]:
        if self._threshold is None:
            return {}
        beyond = sum(abs(x - self._threshold) > self.width for x in self._xs)
        return {"share_beyond_clip": beyond / self.units}


def _bets() -> EProcess:
    return EProcess(BETS)
