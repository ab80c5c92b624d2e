"""What tests of paired log ratios share: estimate, interval and what is detectable, as ratios."""

from __future__ import annotations

import math
from abc import abstractmethod
from array import array
from collections.abc import Callable
from typing import Generic, TypeVar

from ..metrics.metric import Metric
from .e_process import EProcess
from .protocol import BettingTest

AnyProcess = TypeVar("AnyProcess", bound=EProcess)


class RatioTest(BettingTest, Generic[AnyProcess]):
    """Values are log ratios x; limit, estimate and interval are ratios: exp of a centre of x.

    ``make_process`` makes the bets on "the centre is above the limit" and on "it is below".
    """

    def __init__(
        self, metric: Metric, limit: float | None, make_process: Callable[[], AnyProcess]
    ) -> None:
        super().__init__(metric, limit)
        if limit is not None and not limit > 0:
            raise ValueError(f"limit {limit!r} of {metric.name}: a ratio must be above 0")
        self._threshold = None if limit is None else math.log(limit)
        self._xs = array("d")
        self._above, self._below = make_process(), make_process()
        ends = (self._above, self._below) if metric.higher_is_better else (self._below, self._above)
        self.keeps, self.breaks = ends

    @abstractmethod
    def _centre(self) -> float:
        """The centre of the log ratios so far."""

    @abstractmethod
    def _lower(self, alpha: float) -> float:
        """The largest centre up to which all are contradicted from above; −∞ where none is."""

    @abstractmethod
    def _upper(self, alpha: float) -> float:
        """The smallest centre from which on all are contradicted from below; ∞ where none is."""

    @property
    def estimate(self) -> float:
        self._seen()
        return _exp(self._centre())

    def interval(self, alpha: float) -> tuple[float, float] | None:
        self._seen()
        return _exp(self._lower(alpha / 2)), _exp(self._upper(alpha / 2))

    def detectable(self, alpha: float) -> float | None:
        """If the same log ratios were shifted until they fail, their centre would stand this far
        off (a factor, less 1 times the limit)."""
        if self.limit is None:
            return None
        end = self._upper(alpha) if self.metric.higher_is_better else self._lower(alpha)
        reach = abs(self._centre() - end)
        return abs(self.limit * (_exp(reach) - 1)) if math.isfinite(reach) else None

    def state(self) -> list[float]:
        return [*self._xs, *self._above.state(), *self._below.state()]


def _exp(exponent: float) -> float:
    try:
        return math.exp(exponent)
    except OverflowError:
        return math.inf
