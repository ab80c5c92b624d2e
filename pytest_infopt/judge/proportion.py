"""Rule PROPORTION: the rate of independent events against a limit, once all trials are in.

Each unit is one trial, 1 or 0. The p-values are exact binomial tails at the limit; they count as
evidence when the last planned trial has been seen and not before, as a fixed number of trials has
to be. The interval is that of Clopper and Pearson 1934.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..binomial import at_most, upper_bound
from ..metrics.metric import Metric
from .e_process import first
from .protocol import MetricTest

_MOST = 1 << 20  # further trials beyond which nobody asks


class ProportionTest(MetricTest):
    """Shares, for which higher is better or worse; ``planned`` trials decide."""

    def __init__(self, metric: Metric, limit: float | None, planned: int) -> None:
        super().__init__(metric, limit)
        self._planned = planned
        self._events = 0

    def _take(self, values: Sequence[float], weight: int | None) -> None:
        (value,) = values
        if value not in (0, 1):
            raise ValueError(f"{self.metric.name}: a trial is 0 or 1, got {value}")
        self._events += int(value)

    @property
    def _complete(self) -> bool:
        return self.units >= self._planned

    @property
    def p_pass(self) -> float:
        return self._tail(higher=self.metric.higher_is_better)

    @property
    def p_fail(self) -> float:
        return self._tail(higher=not self.metric.higher_is_better)

    def _tail(self, *, higher: bool) -> float:
        if self.limit is None or not self._complete:
            return 1.0
        if higher:
            return at_most(self.units - self._events, self.units, 1 - self.limit)
        return at_most(self._events, self.units, self.limit)

    @property
    def estimate(self) -> float:
        self._seen()
        return self._events / self.units

    def interval(self, alpha: float) -> tuple[float, float] | None:
        self._seen()
        if not self._complete:
            return 0.0, 1.0
        missed = self.units - self._events
        return (
            1 - upper_bound(missed, self.units, alpha / 2),
            upper_bound(self._events, self.units, alpha / 2),
        )

    def needed(self, alpha_pass: float, alpha_fail: float) -> int | None:
        """How many more trials would decide if all went well."""
        if self.limit is None or not self._complete or not 0 < self.limit < 1:
            return None
        bad_rate = 1 - self.limit if self.metric.higher_is_better else self.limit
        bad = self.units - self._events if self.metric.higher_is_better else self._events

        def enough(more: int) -> bool:
            return at_most(bad, self.units + more, bad_rate) <= alpha_pass

        return first(1, _MOST, enough) if enough(_MOST) else None

    def details(self) -> dict[str, Any]:
        return {"events": self._events, "trials": self.units}

    def state(self) -> list[float]:
        return [float(self.units), float(self._events)]
