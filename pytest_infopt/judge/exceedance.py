"""Rule EXCEEDANCE: a quantile against a limit, by the share of values beyond it.

The q-quantile keeps the limit L where at most m = 1 − q of the values lie beyond L. A unit that
holds many values (the tokens of a document) gives one number, the share of its values beyond L:
tokens of one document depend on each other, documents do not. A unit with a single value (one
request) makes it a Bernoulli test (STATISTICS 4.1, tail SLO).

Requests that are sent one after another depend on each other as the machine's load does. Such
``serial`` metrics are decided only if the evidence also stands where each stretch of dependent
requests counts as one, the share of its values beyond the limit (`dependence`).
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infopt_reference.measurement import sorted_quantile

from ..metrics.metric import Metric
from .dependence import FEWEST_UNITS, dependence_length
from .e_process import (
    BELOW_BETS,
    BERNOULLI_BELOW_BETS,
    MeanAbove,
    MeanBelow,
    first,
)
from .protocol import BettingTest

_CLIP = 5.0  # B / m, as for the mean
_LOOK = 0.2  # p-values from which dependence is looked at: the largest error rate of a release
_AGAIN = 1.1  # times as many units until the next look


class ExceedanceTest(BettingTest):
    """Values are ≥ 0 and smaller is better, as all quantile metrics here are.

    The first unit decides which bets are placed: Bernoulli where it holds one value.
    """

    def __init__(self, metric: Metric, limit: float | None) -> None:
        super().__init__(metric, limit)
        if metric.quantile is None or not 0 < metric.quantile < 1:
            raise ValueError(f"{metric.name}: rule EXCEEDANCE needs a quantile between 0 and 1")
        self.quantile = metric.quantile
        self.m = allowed_share(metric)
        self._units: list[array[float]] = []
        self._single = False
        self.breaks: MeanAbove = MeanAbove(self.m)
        self.keeps: MeanBelow = MeanBelow(self.m)
        self._shares: list[float] = []
        self._charged = _Charged()

    def _take(self, values: Sequence[float], weight: int | None) -> None:
        if not self._units:
            self._single = len(values) == 1
            self.keeps = self._fresh_below()
        unit = array("d", sorted(values))
        self._units.append(unit)
        if self.limit is not None:
            share = _share_beyond(unit, self.limit)
            self._shares.append(share)
            self.breaks.observe(share)
            self.keeps.observe(share, self._bound(len(unit)))
            if self.metric.serial and min(self.keeps.p, self.breaks.p) <= _LOOK:
                self._charge()

    def _charge(self) -> None:
        """Look at the evidence with dependent units as one; how far they depend, now and then."""
        charged, keeps, breaks = self._charged, self.keeps, self.breaks
        if self.units < FEWEST_UNITS:
            return
        if self.units >= _AGAIN * charged.units:
            charged.units, charged.length = self.units, self._dependence()
            if charged.length > 1:
                keeps, breaks = self._judged_in_blocks()
        elif charged.length > 1:
            return
        charged.p_pass = min(charged.p_pass, keeps.p)
        charged.p_fail = min(charged.p_fail, breaks.p)

    def _judged_in_blocks(self) -> tuple[MeanBelow, MeanAbove]:
        assert self.limit is not None
        keeps, breaks = self._fresh_below(), MeanAbove(self.m)
        for unit in self._blocks():
            share = _share_beyond(unit, self.limit)
            breaks.observe(share)
            keeps.observe(share, self._bound(len(unit)))
        return keeps, breaks

    def _dependence(self) -> int:
        return dependence_length([math.fsum(unit) / len(unit) for unit in self._units])

    def _blocks(self) -> list[array[float]]:
        """The units, stretches of dependent ones joined."""
        length = self._charged.length
        if length == 1:
            return self._units
        starts = range(0, len(self._units) - length + 1, length)
        return [
            array("d", sorted(v for u in self._units[start : start + length] for v in u))
            for start in starts
        ]

    @property
    def p_pass(self) -> float:
        return max(self.keeps.p, self._charged.p_pass) if self.metric.serial else self.keeps.p

    @property
    def p_fail(self) -> float:
        return max(self.breaks.p, self._charged.p_fail) if self.metric.serial else self.breaks.p

    def _fresh_below(self) -> MeanBelow:
        return MeanBelow(self.m, BERNOULLI_BELOW_BETS if self._single else BELOW_BETS)

    def _bound(self, size: int) -> float:
        """Where a share is clipped: never below what one value of the unit amounts to."""
        return 1.0 if self._single else min(1.0, max(_CLIP * self.m, 1 / size))

    @property
    def estimate(self) -> float:
        self._seen()
        return sorted_quantile(self._pooled(), self.quantile)

    def _pooled(self) -> list[float]:
        return sorted(value for unit in self._units for value in unit)

    def interval(self, alpha: float) -> tuple[float, float] | None:
        self._seen()
        if self.metric.serial and not self._charged.units:
            if self.units < FEWEST_UNITS:
                return 0.0, math.inf
            self._charged.length = self._dependence()
        ordered = sorted(set(self._pooled()))
        return self._lower(ordered, alpha / 2), self._upper(ordered, alpha / 2)

    def _lower(self, ordered: list[float], alpha: float) -> float:
        """The smallest value that is not contradicted as the quantile from above, or 0."""
        if not self._too_many(-math.inf, alpha):
            return 0.0
        last = len(ordered) - 1
        return ordered[first(0, last, lambda i: not self._too_many(ordered[i], alpha))]

    def _upper(self, ordered: list[float], alpha: float) -> float:
        """The smallest value beyond which clearly fewer than 1 − q of the values lie."""
        end = first(0, len(ordered), lambda i: self._few(ordered[i], alpha))
        return ordered[end] if end < len(ordered) else math.inf

    def _too_many(self, threshold: float, alpha: float) -> bool:
        process = MeanAbove(self.m)
        for unit in self._blocks():
            process.observe(_share_beyond(unit, threshold))
        return process.p <= alpha

    def _few(self, threshold: float, alpha: float) -> bool:
        process = self._fresh_below()
        for unit in self._blocks():
            process.observe(_share_beyond(unit, threshold), self._bound(len(unit)))
        return process.p <= alpha

    def detectable(self, alpha: float) -> float | None:
        """If the same values were scaled up until they fail, their quantile would stand this far
        off."""
        lower = self._lower(sorted(set(self._pooled())), alpha)
        if self.limit is None or not lower or not math.isfinite(lower):
            return None
        return self.limit * (self.estimate / lower - 1)

    def promise(self) -> str:
        serial = ", dependence as measured" if self.metric.serial else ""
        return f"at most {100 * self.m:.3g} % beyond{serial}"

    def details(self) -> dict[str, Any]:
        if self.limit is None:
            return {}
        beyond = sum(
            share * len(unit) for share, unit in zip(self._shares, self._units, strict=True)
        )
        total = sum(map(len, self._units))
        details: dict[str, Any] = {"share_beyond": beyond / total}
        if self._charged.length > 1:
            details["dependence_length"] = self._charged.length
        if not self._single and 0 < beyond < total and self.units > 1:
            details["design_effect"] = self._design_effect(beyond / total, total)
        return details

    def _design_effect(self, share: float, total: int) -> float:
        """Variance of the pooled share with documents as units / as if tokens were independent
        (linearised ratio estimator)."""
        residuals = [
            len(unit) * (y - share) for y, unit in zip(self._shares, self._units, strict=True)
        ]
        correction = self.units / (self.units - 1)
        return correction * math.fsum(r * r for r in residuals) / (total * share * (1 - share))

    def state(self) -> list[float]:
        charged = self._charged
        looked = (float(charged.units), float(charged.length), charged.p_pass, charged.p_fail)
        processes = (*self.breaks.state(), *self.keeps.state())
        return [float(self._single), float(self.n), *looked, *processes]


@dataclass
class _Charged:
    """What the evidence came to when dependence was last looked at, after ``units`` units: over
    how many units values depend on each other, and the least p-values so far."""

    units: int = 0
    length: int = 1
    p_pass: float = 1.0
    p_fail: float = 1.0


def allowed_share(metric: Metric) -> float:
    """1 − quantile, free of the rounding of 1 − 0.99: the share of values that may lie beyond."""
    assert metric.quantile is not None
    return round(1 - metric.quantile, 12)


def _share_beyond(ordered: array[float], threshold: float) -> float:
    return (len(ordered) - bisect_right(ordered, threshold)) / len(ordered)
