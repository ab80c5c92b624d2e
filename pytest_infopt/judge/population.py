"""A finite population: the units are all there is, so that a verdict is about their own mean.

Nothing is inferred and nothing can be wrong by chance. FAIL comes as soon as the units that are
left cannot bring the mean back, PASS as soon as they cannot spoil it: at the last one, where a unit
may be as bad as it likes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..metrics.metric import Metric, Rule, Unit
from .protocol import MetricTest

RULES = (Rule.MEAN, Rule.LOG_MEAN, Rule.EXCEEDANCE)


class PopulationTest(MetricTest):
    """The mean over ``planned`` units of what the metric's rule counts of each: the value, its
    logarithm, or whether it lies beyond the limit. ``estimate`` is a test of that rule, which
    says what was measured."""

    statistical = False

    def __init__(self, metric: Metric, limit: float, planned: int, estimate: MetricTest) -> None:
        super().__init__(metric, limit)
        self.planned = planned
        self._estimate = estimate
        self._limit = limit
        self._counted: list[float] = []

    def _take(self, values: Sequence[float], weight: int | None) -> None:
        listed = self.metric.rule is Rule.EXCEEDANCE
        self._estimate.update(list(values) if listed else values[0], weight=weight)
        self._counted.append(self._of_unit(values))

    def _of_unit(self, values: Sequence[float]) -> float:
        if self.metric.rule is Rule.EXCEEDANCE:
            return sum(value > self._limit for value in values) / len(values)
        return 1 - values[0] if self._reversed else values[0]

    @property
    def _allowed(self) -> float:
        """The largest mean of what is counted."""
        if self.metric.rule is Rule.EXCEEDANCE:
            return 1 - (self.metric.quantile or 0.0)
        if self.metric.rule is Rule.LOG_MEAN:
            return math.log(self._limit)
        allowed = self._limit**self.metric.power
        return 1 - allowed if self._reversed else allowed

    @property
    def _reversed(self) -> bool:
        return self.metric.rule is Rule.MEAN and self.metric.higher_is_better

    @property
    def p_pass(self) -> float:
        is_share = self.metric.unit is Unit.SHARE or self.metric.rule is Rule.EXCEEDANCE
        return 0.0 if self._mean(1.0 if is_share else math.inf) <= self._allowed else 1.0

    @property
    def p_fail(self) -> float:
        least = -math.inf if self.metric.rule is Rule.LOG_MEAN else 0.0
        return 0.0 if self._mean(least) > self._allowed else 1.0

    def _mean(self, of_each_left: float) -> float:
        """The population's mean, if all that is left counts so much."""
        left = self.planned - self.units
        rest = left * of_each_left if left > 0 else 0.0
        return (math.fsum(self._counted) + rest) / max(self.planned, self.units)

    @property
    def estimate(self) -> float:
        return self._estimate.estimate

    def needed(self, alpha_pass: float, alpha_fail: float) -> int | None:
        left = self.planned - self.units
        return left if left > 0 else None

    def promise(self) -> str:
        return f"of these {self.planned} alone"

    def details(self) -> dict[str, Any]:
        return {**self._estimate.details(), "population": self.planned}

    def state(self) -> list[float]:
        return [float(self.units), math.fsum(self._counted)]
