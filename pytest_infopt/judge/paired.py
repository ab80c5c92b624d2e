"""Rule PAIRED: right and wrong answers of reference and candidate to the same items.

The loss of accuracy is the mean of D = (reference right) − (candidate right), or, for a metric of
which more is better, accuracy kept: the candidate's as a share of the reference's. Two tests share
the error rate (STATISTICS 4.3). Bets on every unit may end the measurement early; when the last
planned unit is in, an exact test counts, too. An unpaired comparison would need many times as many
items, and a z interval has no width where no answer differs.

A unit is what is independent: an item, or the items that share a passage. Its items are counted
down to an effective number by the design effect of the units (Korn and Graubard 1998), the largest
possible one where few units have answers that differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..binomial import upper_bound
from ..metrics.metric import Metric
from .e_process import EProcess, first
from .protocol import MetricTest
from .trinomial import loss_p_value, null_variance

__all__ = ["Outcome", "fewest_items", "needed_items", "told_difference"]

Array = NDArray[np.float64]
BETS = (0.1, 0.25, 0.5, 0.85)
EARLY = 0.25  # of the error rate, for ending early; half of it would decide 5 % fewer sessions
_FEW_UNITS = 10  # with answers that differ: too few to estimate a design effect
_OUTSIDE = 1e-6  # P(the reference's accuracy lies outside its bound)
_MOST = 1 << 16  # items beyond which nobody plans
_STEPS = 100_000  # to a whole, in which intervals are searched


class Outcome(IntEnum):
    """What became of an item: what a unit of rule PAIRED is a list of.

    Units of fewer items than the largest are filled up with NO_ITEM: all have one length.
    """

    BOTH_WRONG = 0
    LOST = 1  # right for the reference alone
    GAINED = 2  # right for the candidate alone
    BOTH_RIGHT = 3
    NO_ITEM = 4


_REFERENCE_RIGHT = np.array([0.0, 1.0, 0.0, 1.0, 0.0])
_CANDIDATE_RIGHT = np.array([0.0, 0.0, 1.0, 1.0, 0.0])
_IS_ITEM = np.array([1.0, 1.0, 1.0, 1.0, 0.0])


def _normal(level: float) -> float:
    return NormalDist().inv_cdf(level)


def needed_items(discordance: float, difference: float, alpha: float, power: float = 0.95) -> int:
    """About how many independent items tell a true loss from a limit ``difference`` away, where so
    large a share of the answers differs."""
    half = np.array(discordance / 2)
    null = _normal(1 - (1 - EARLY) * alpha) * math.sqrt(null_variance(half, half, difference))
    return math.ceil(((null + _normal(power) * math.sqrt(discordance)) / difference) ** 2)


def told_difference(discordance: float, items: int, alpha: float, power: float = 0.95) -> float:
    """The distance between limit and truth that so many items tell, to a hundredth of a point."""

    def enough(step: int) -> bool:
        return needed_items(discordance, step * 1e-4, alpha, power) <= items

    return first(1, 9_999, enough) * 1e-4


class PairedTest(MetricTest):
    """``limit`` is the largest loss, or the smallest share kept; ``planned`` units decide."""

    def __init__(self, metric: Metric, limit: float | None, planned: int) -> None:
        super().__init__(metric, limit)
        self._kept = metric.higher_is_better
        self._planned = planned
        self._counts: list[Array] = []  # per unit, items by outcome
        self._keeps, self._breaks = EProcess(BETS), EProcess(BETS)

    def _take(self, values: Sequence[float], weight: int | None) -> None:
        if not set(values) <= set(Outcome) or set(values) <= {Outcome.NO_ITEM}:
            raise ValueError(
                f"{self.metric.name}: a unit is a list of outcomes 0…4, not all 4; got {values!r}"
            )
        if self._counts and len(values) != self._counts[0].sum():
            raise ValueError(
                f"{self.metric.name}: units of {self._counts[0].sum():g} and {len(values)} places; "
                "fill the smaller ones up with Outcome.NO_ITEM"
            )
        counts = np.bincount([int(value) for value in values], minlength=5).astype(float)
        self.n -= int(counts[Outcome.NO_ITEM])
        self._counts.append(counts)
        if self.limit is not None:
            for bets, side in ((self._keeps, 1), (self._breaks, -1)):
                bets.update(float(counts @ self._gain(self.limit, side)) / len(values))

    def _harm(self, limit: float) -> Array:
        """By outcome, what has a mean ≤ 0 where the limit is kept."""
        granted = (limit - 1) * _REFERENCE_RIGHT if self._kept else -limit * _IS_ITEM
        harm: Array = _REFERENCE_RIGHT - _CANDIDATE_RIGHT + granted
        return harm

    def _gain(self, limit: float, side: int) -> Array:
        """By outcome, what a bet on "the limit is kept" (side 1) or on the contrary (−1) gains;
        −1 is the most that is lost."""
        gain = -side * self._harm(limit)
        most = -float(gain.min())
        return gain / most if most > 0 else gain

    # Evidence

    @property
    def p_pass(self) -> float:
        return 1.0 if self.limit is None else self._both(self._keeps.p, self._end(self.limit, 1))

    @property
    def p_fail(self) -> float:
        return 1.0 if self.limit is None else self._both(self._breaks.p, self._end(self.limit, -1))

    @staticmethod
    def _both(early: float, end: float) -> float:
        return min(1.0, early / EARLY, end / (1 - EARLY))

    def _end(self, limit: float, side: int) -> float:
        """The exact test's p-value, against "the limit is not kept" (side 1) or "it is" (−1)."""
        if self.units < self._planned:
            return 1.0
        items, lost, gained = self._effective(_REFERENCE_RIGHT - _CANDIDATE_RIGHT)
        if side < 0:
            lost, gained = gained, lost
        counts = min(items, math.ceil(lost)), math.floor(gained)
        margin, outside = limit, 0.0
        if self._kept:
            bound = self._reference_bound(side if limit <= 1 else -side)
            margin, outside = (1 - limit) * bound, _OUTSIDE
        counts = counts[0], min(counts[1], items - counts[0])
        return outside + loss_p_value(*counts, items, side * margin)

    def _reference_bound(self, side: int) -> float:
        """The reference's accuracy, bounded from below (side 1) or above: what a relative margin is
        a share of is not known exactly."""
        items, right, _ = self._effective(_REFERENCE_RIGHT)
        if side > 0:
            return 1 - upper_bound(min(items, math.ceil(items - right)), items, _OUTSIDE)
        return upper_bound(min(items, math.ceil(right)), items, _OUTSIDE)

    def _effective(self, value: Array) -> tuple[int, float, float]:
        """Items, and how many of them have a value of 1 and −1, as independent items would."""
        table = np.array(self._counts)
        total = table.sum(0)
        positive, negative = float(total[value > 0].sum()), float(total[value < 0].sum())
        effect = self._design_effect(table, value)
        return max(1, math.floor(self.n / effect)), positive / effect, negative / effect

    def _design_effect(self, table: Array, value: Array) -> float:
        sizes, sums = table @ _IS_ITEM, table @ value
        if sizes.max() == 1:
            return 1.0
        mean = sums.sum() / self.n
        spread = (table @ (_IS_ITEM * (value - mean) ** 2)).sum()
        largest = float((sizes**2).sum() / sizes.sum())
        few = min(int((table @ (value != 0) > 0).sum()), self.units)
        if few < _FEW_UNITS or not spread:
            return largest
        units = self.units / (self.units - 1)
        return max(1.0, float(units * ((sums - mean * sizes) ** 2).sum() / spread))

    # What people are told

    @property
    def estimate(self) -> float:
        self._seen()
        total = np.array(self._counts).sum(0)
        reference, candidate = float(total @ _REFERENCE_RIGHT), float(total @ _CANDIDATE_RIGHT)
        if not self._kept:
            return (reference - candidate) / self.n
        if not reference:
            return math.inf if candidate else 1.0
        return candidate / reference

    def interval(self, alpha: float) -> tuple[float, float] | None:
        self._seen()
        start = 0 if self._kept else -_STEPS  # losses lie in −1…1, what is kept is searched in 0…2
        sides = (1, -1) if self._kept else (-1, 1)

        def contradicted(step: int, side: int) -> bool:
            return self._p_at((start + step) / _STEPS, side) <= alpha / 2

        low = first(0, 2 * _STEPS, lambda step: not contradicted(step, sides[0]))
        high = first(0, 2 * _STEPS, lambda step: contradicted(step, sides[1]))
        ends = (start + low) / _STEPS, (start + high) / _STEPS
        return (ends[0], math.inf) if self._kept and high == 2 * _STEPS else ends

    def _p_at(self, limit: float, side: int) -> float:
        """`p_pass` (side 1) or `p_fail` at another limit."""
        if not self._kept and not -1 < limit < 1:
            return 1.0
        gains = np.array(self._counts) @ self._gain(limit, side) / self._counts[0].sum()
        logs = np.log1p(np.outer(BETS, gains)).cumsum(1)
        wealth = np.logaddexp.reduce(logs, axis=0) - math.log(len(BETS))
        return self._both(math.exp(-max(0.0, float(wealth.max()))), self._end(limit, side))

    def needed(self, alpha_pass: float, alpha_fail: float) -> int | None:
        if self.limit is None or not self.units or not math.isfinite(self.estimate):
            return None
        off = abs(self.estimate - self.limit)
        if off <= self._deviation / math.sqrt(self.units):
            return None
        units = needed_items(self._deviation**2, min(off, 0.99), min(alpha_pass, alpha_fail), 0.8)
        if (self.estimate > self.limit) is self._kept:
            units = max(units, fewest_items(self.metric, self.limit, alpha_pass))
        return max(1, units - self.units)

    def detectable(self, alpha: float) -> float | None:
        if self.limit is None or not self.units:
            return None
        return _normal(1 - (1 - EARLY) * alpha) * self._deviation / math.sqrt(self.units)

    @property
    def _deviation(self) -> float:
        """Of a unit's part in the estimate; one answer more that differs is granted."""
        table = np.array(self._counts)
        harm = self._harm(self.estimate if self._kept and math.isfinite(self.estimate) else 0.0)
        whole = float((table @ _REFERENCE_RIGHT).sum()) if self._kept else self.n
        scale = self.units / max(1.0, whole)
        return scale * math.sqrt((float(((table @ harm) ** 2).sum()) + 1) / self.units)

    def details(self) -> dict[str, Any]:
        total = np.array(self._counts).sum(0)
        return {
            "reference_accuracy": float(total @ _REFERENCE_RIGHT) / self.n,
            "candidate_accuracy": float(total @ _CANDIDATE_RIGHT) / self.n,
            "lost": int(total[Outcome.LOST]),
            "gained": int(total[Outcome.GAINED]),
        }

    def state(self) -> list[float]:
        counts = [float(count) for unit in self._counts for count in unit]
        return [*counts, *self._keeps.state(), *self._breaks.state()]


def fewest_items(metric: Metric, limit: float, alpha: float) -> int:
    """The fewest items that can PASS, all of them right for both."""

    def enough(items: int) -> bool:
        test = PairedTest(metric, limit, items)
        for _ in range(items):
            test.update([float(Outcome.BOTH_RIGHT)])
        return test.p_pass <= alpha

    high = 1
    while high < _MOST and not enough(high):
        high *= 2
    return first(1, high, enough)
