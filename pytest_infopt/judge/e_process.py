"""E-processes: evidence that may be looked at after every unit. The judge's only arithmetic.

A gambler who starts with 1 bets at each unit a fraction c of the wealth on a gain g ≥ −1 whose
expectation is ≤ 0 under the null hypothesis; the wealth E = Π (1 + c·g) is then a non-negative
supermartingale, and so is the mean over a few fixed fractions c. By Ville's inequality
P(E ever reaches 1/α) ≤ α whatever rule stops the measurement, and 1 / max E is a p-value at every
moment (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting").

Every test here is such a bet; they differ in the gain and in the fractions:

    sign       g = +1 (success) or −1, c = 2p − 1: E(S, n) = mean over p of (2p)^S (2(1 − p))^(n−S)
    mean > m   g = (Y − m) / m                    needs Y ≥ 0 alone
    mean < m   g = (m − min(Y, B)) / (B − m)      Y clipped at the bound B

Wealth is kept in logarithms, per fraction. The same updates give the same bits.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

SIGN_PROBABILITIES = (0.65, 0.80, 0.93)
ABOVE_BETS = (0.05, 0.15, 0.4, 0.8)
BELOW_BETS = (0.35, 0.95)
BERNOULLI_BELOW_BETS = (0.1, 0.3, 0.6, 0.9)


class Growth(NamedTuple):
    """How one fraction's wealth has grown: its logarithm, and mean and spread of a unit's step."""

    log_wealth: float
    mean: float
    deviation: float


class EProcess:
    """The mean over fixed betting fractions of Π (1 + c·gain), in logarithms.

    ``log_e`` is the wealth now, ``log_max`` the largest so far (at least 0, the stake).
    """

    __slots__ = ("_bets", "_logs", "_squares", "log_e", "log_max", "n")

    def __init__(self, bets: Sequence[float]) -> None:
        if not bets or not all(0 < bet < 1 for bet in bets):
            raise ValueError(f"betting fractions {tuple(bets)!r}: one or more between 0 and 1")
        self._bets = tuple(bets)
        self._logs = [0.0] * len(bets)
        self._squares = [0.0] * len(bets)
        self.n = 0
        self.log_e = 0.0
        self.log_max = 0.0

    def update(self, gain: float) -> None:
        """Settle one unit's bet; ``gain`` ≥ −1, of expectation ≤ 0 under the null."""
        self.n += 1
        logs, squares = self._logs, self._squares
        for i, bet in enumerate(self._bets):
            step = math.log1p(bet * gain)
            logs[i] += step
            squares[i] += step * step
        top = max(logs)
        if top == math.inf:  # the null has been contradicted, not merely made unlikely
            self.log_e = math.inf
        else:
            wealth = 0.0
            for log in logs:
                wealth += math.exp(log - top)
            self.log_e = top + math.log(wealth / len(logs))
        if self.log_e > self.log_max:
            self.log_max = self.log_e

    @property
    def p(self) -> float:
        """The p-value that holds at whatever moment it is read: 1 / max E."""
        return math.exp(-self.log_max)

    def growth(self) -> list[Growth]:
        """One entry per fraction; empty before the first unit."""
        if not self.n:
            return []
        rows = []
        for log, square in zip(self._logs, self._squares, strict=True):
            mean = log / self.n
            rows.append(Growth(log, mean, math.sqrt(max(0.0, square / self.n - mean * mean))))
        return rows

    def state(self) -> list[float]:
        """Everything that later updates depend on, for comparing bit for bit."""
        return [float(self.n), self.log_e, self.log_max, *self._logs]


class SignProcess(EProcess):
    """Null: a success is at most as likely as not, whatever happened before (STATISTICS 4.1)."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__([2 * p - 1 for p in SIGN_PROBABILITIES])

    def observe(self, success: bool) -> None:
        """One pair; a tie is no success, so it counts against whichever side asks."""
        self.update(1.0 if success else -1.0)


class MeanAbove(EProcess):
    """Null: the mean of Y ≥ 0 is at most ``m`` > 0. Exact for every such Y; its wealth is evidence
    that the mean lies above. For Y in {0, 1} it is the Bernoulli test of a rate."""

    __slots__ = ("m",)

    def __init__(self, m: float) -> None:
        if not m > 0:
            raise ValueError(f"mean {m!r}: the bets (c/m)(Y − m) need m > 0")
        super().__init__(ABOVE_BETS)
        self.m = m

    def observe(self, y: float) -> None:
        self.update((y - self.m) / self.m)


class MeanBelow(EProcess):
    """Null: the mean of Y ≥ 0 is at least ``m``. Its wealth is evidence that the mean lies below.

    Without a bound on Y no test can show that: one unit in a thousand may hold a thousand times the
    mean. Y is therefore clipped at B, and what clipping has cut off so far is charged, on average,
    to every later unit: g = (m − min(Y + cut, B)) / (B − m). With B ≥ sup Y the test is exact. The
    charge costs nothing where nothing is cut off. Where Y is coarse (the share of changed tokens in
    a document of 16 is 0 or at least 1/16), clipping at 3m alone always passes a candidate whose
    mean is at the limit .01; the charge and a bound of at least 1/16 bring that to 1 % (simulated).
    """

    __slots__ = ("_cut", "m")

    def __init__(self, m: float, bets: Sequence[float] = BELOW_BETS) -> None:
        super().__init__(bets)
        self.m = m
        self._cut = 0.0

    def observe(self, y: float, bound: float) -> None:
        """One unit; ``bound`` > m may depend on the unit's size, not on its value."""
        if not bound > self.m:
            raise ValueError(f"bound {bound!r}: must be above the mean under test, {self.m!r}")
        charge = self._cut / self.n if self.n else 0.0
        self._cut += max(0.0, y - bound)
        self.update((self.m - min(y + charge, bound)) / (bound - self.m))

    def state(self) -> list[float]:
        return [*super().state(), self._cut]


def units_to_decide(process: EProcess, alpha: float) -> int | None:
    """About how many more units would bring the wealth to 1/``alpha``, four times in five at least.

    Assumes that later units are like those seen, and allows for how little those say: after r more
    of them, a fraction's log wealth has grown by r·mean ± deviation·√(r + r²/n). None where it is
    not clear that wealth grows: the truth is too near the limit for the units seen to tell; nor
    where there are few of them.

    The quantile that four in five would take of normal steps is too small: steps are skewed, the
    few seen rarely hold the worst, and advice is given where they happen to look clear. `_CAUTION`
    is what simulation asks for (docs/explanation/verdicts.md).
    """
    growth = process.growth()
    if process.n < _FEWEST_TO_TELL:
        return None
    target = math.log(max(len(growth), 1) / alpha)
    counts = [_units(row, process.n, target - row.log_wealth) for row in growth]
    return min((count for count in counts if count is not None), default=None)


_CAUTION = 2.0  # standard deviations; of fewer units than these more, by the root of their number
_ENOUGH_TO_TELL = 24
_FEWEST_TO_TELL = 8


def _units(growth: Growth, n: int, deficit: float) -> int | None:
    """The fewest r ≥ 1 with r·mean − z·deviation·√(r + r²/n) ≥ deficit."""
    spread = _CAUTION * math.sqrt(max(1.0, _ENOUGH_TO_TELL / n)) * growth.deviation
    if not growth.mean > spread / math.sqrt(n) or not math.isfinite(deficit):
        return None

    def enough(r: int) -> bool:
        return r * growth.mean - spread * math.sqrt(r + r * r / n) >= deficit

    high = 1
    while not enough(high):
        high *= 2
    return first(1, high, enough)


def first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The smallest i in low…high with holds(i), for a condition that, once true, stays true.

    ``high`` is the answer where nothing below it holds.
    """
    return low + bisect_left(range(low, high), True, key=holds)
