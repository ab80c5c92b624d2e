"""Rules WORST and EXACT: no statistics, a limit that every value has to keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..metrics.metric import Metric
from .protocol import MetricTest


class WorstTest(MetricTest):
    """FAIL at the first value beyond the limit; PASS once all ``planned`` units have kept it."""

    statistical = False

    def __init__(self, metric: Metric, limit: float | None, planned: int) -> None:
        super().__init__(metric, limit)
        self.planned = planned
        self._worst = math.inf if metric.higher_is_better else -math.inf
        self._worst_unit = 0

    def _take(self, values: Sequence[float], weight: int | None) -> None:
        worst = min(values) if self.metric.higher_is_better else max(values)
        if self.units == 1 or _beyond(self.metric, worst, self._worst):
            self._worst, self._worst_unit = worst, self.units - 1

    @property
    def p_pass(self) -> float:
        return 1.0 if self.limit is None or self.p_fail == 0 or self._left() > 0 else 0.0

    @property
    def p_fail(self) -> float:
        broken = self.limit is not None and _beyond(self.metric, self._worst, self.limit)
        return 0.0 if broken else 1.0

    def _left(self) -> int:
        return self.planned - self.units

    @property
    def estimate(self) -> float:
        self._seen()
        return self._worst

    def needed(self, alpha_pass: float, alpha_fail: float) -> int | None:
        return self._left() if self.p_fail and self._left() > 0 else None

    def details(self) -> dict[str, Any]:
        return {"worst_unit": self._worst_unit, "planned": self.planned}

    def state(self) -> list[float]:
        return [float(self.units), self._worst, float(self._worst_unit)]


class ExactTest(MetricTest):
    """A deterministic number, read twice (once where only one reading is planned).

    Equal readings are compared with the limit exactly; readings that differ decide nothing, because
    what differs is no constant and was not measured as a noisy number either.
    """

    statistical = False

    def __init__(self, metric: Metric, limit: float | None, planned: int) -> None:
        super().__init__(metric, limit)
        self.readings = min(2, planned)
        self._lowest = math.inf
        self._highest = -math.inf

    def _take(self, values: Sequence[float], weight: int | None) -> None:
        self._lowest = min(self._lowest, *values)
        self._highest = max(self._highest, *values)

    @property
    def differs(self) -> bool:
        """Whether two readings disagreed."""
        return self.units > 1 and self._lowest != self._highest

    @property
    def p_pass(self) -> float:
        return 0.0 if self._settled() and not self._broken() else 1.0

    @property
    def p_fail(self) -> float:
        return 0.0 if self._settled() and self._broken() else 1.0

    def _settled(self) -> bool:
        return self.limit is not None and self.units >= self.readings and not self.differs

    def _broken(self) -> bool:
        return self.limit is not None and _beyond(self.metric, self.estimate, self.limit)

    @property
    def estimate(self) -> float:
        self._seen()
        return self._lowest if self.metric.higher_is_better else self._highest

    def needed(self, alpha_pass: float, alpha_fail: float) -> int | None:
        left = self.readings - self.units
        return left if left > 0 and not self.differs else None

    def details(self) -> dict[str, Any]:
        return {"lowest": self._lowest, "highest": self._highest} if self.differs else {}

    def state(self) -> list[float]:
        return [float(self.units), self._lowest, self._highest]


def _beyond(metric: Metric, value: float, limit: float) -> bool:
    return value < limit if metric.higher_is_better else value > limit
