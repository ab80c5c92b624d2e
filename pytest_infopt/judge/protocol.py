"""What every rule's test offers the gate: evidence both ways, an estimate, and what is missing."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ..metrics.metric import Metric
from .e_process import EProcess, units_to_decide

Value = float | Sequence[float]


class MetricTest(ABC):
    """The test of one metric against one limit, fed unit by unit.

    ``limit`` is None where no budget was set: the estimate and its interval are still made. ``n``
    counts single values where the caller says how many a unit holds, ``units`` counts units.
    ``statistical`` says whether FAIL can be wrong by chance, so that it has to share an error rate.
    """

    statistical = True

    def __init__(self, metric: Metric, limit: float | None) -> None:
        self.metric = metric
        self.limit = limit
        self.n = 0
        self.units = 0
        self.identical = True

    def update(self, value: Value, identical: bool = False, weight: int | None = None) -> None:
        """Take one unit's value (or its single values, for quantiles).

        ``identical`` says that reference and candidate gave the same bits, ``weight`` of how many
        tokens the value is a mean, where known. Raises ValueError for NaN and for an empty list.
        """
        values = (value,) if isinstance(value, (int, float)) else value
        if not len(values) or any(map(math.isnan, values)):
            raise ValueError(
                f"{self.metric.name}, unit {self.units + 1}: {value!r} holds NaN or nothing; "
                "leave the metric out of a unit that could not measure it"
            )
        self.units += 1
        self.n += weight if weight is not None and values is not value else len(values)
        self.identical = self.identical and identical
        self._take(values, weight)

    @abstractmethod
    def _take(self, values: Sequence[float], weight: int | None) -> None:
        """Settle one unit."""

    @property
    @abstractmethod
    def p_pass(self) -> float:
        """Anytime-valid p-value against "the truth is at the limit or beyond it"."""

    @property
    @abstractmethod
    def p_fail(self) -> float:
        """Anytime-valid p-value against "the truth keeps the limit"."""

    @property
    @abstractmethod
    def estimate(self) -> float:
        """The metric's value so far; raises ValueError before the first unit."""

    def interval(self, alpha: float) -> tuple[float, float] | None:
        """Holds the truth with probability ≥ 1 − ``alpha`` at whatever moment it is read.

        An end is infinite where the units do not bound it yet; None where the metric is no
        statistic. The limit lies outside exactly where a test at ``alpha``/2 has decided.
        """
        return None

    def needed(self, alpha_pass: float, alpha_fail: float) -> int | None:
        """About how many more units would decide; None where they do not tell."""
        return None

    def detectable(self, alpha: float) -> float | None:
        """The true excess over the limit that this many units would turn into FAIL half the time,
        in the metric's unit, supposing the spread that was seen."""
        return None

    def promise(self) -> str:
        """What is compared with the limit, where the metric's name does not say all of it."""
        return ""

    def details(self) -> dict[str, Any]:
        """What a person may want to know beside the verdict."""
        return {}

    @abstractmethod
    def state(self) -> list[float]:
        """Everything that later updates depend on, for comparing bit for bit."""

    def _seen(self) -> None:
        if not self.units:
            raise ValueError(f"{self.metric.name}: no unit has been seen")


class BettingTest(MetricTest):
    """A test by two bets: ``keeps`` gains while the limit is kept, ``breaks`` while it is not."""

    keeps: EProcess
    breaks: EProcess

    @property
    def p_pass(self) -> float:
        return self.keeps.p

    @property
    def p_fail(self) -> float:
        return self.breaks.p

    def needed(self, alpha_pass: float, alpha_fail: float) -> int | None:
        if self.limit is None:
            return None
        return first_to_decide((self.keeps, alpha_pass), (self.breaks, alpha_fail))


def first_to_decide(*bets: tuple[EProcess, float]) -> int | None:
    """About how many more units until the first of several processes reaches its 1/alpha."""
    counts = [units_to_decide(process, alpha) for process, alpha in bets]
    return min((count for count in counts if count is not None), default=None)
