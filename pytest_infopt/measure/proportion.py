"""Shares with their exact intervals: how many of so many, and what that says of the rate.

The bounds of Clopper and Pearson 1934: the upper one is the rate at which so few events or fewer
have a probability of (1 − confidence)/2, the lower one that of the non-events turned round. Never
too narrow for independent trials of one rate; for independent trials of different rates neither,
where the bounds lie beyond the mean number of events by one or more (Hoeffding 1956).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Proportion:
    """``events`` of ``trials``, and the interval of the rate behind them (0…1 for no trials).

    Raises ValueError unless 0 ≤ events ≤ trials.
    """

    events: int
    trials: int

    def __post_init__(self) -> None:
        if not 0 <= self.events <= self.trials:
            raise ValueError(f"{self.events} events of {self.trials}; give 0…{self.trials}")

    @property
    def share(self) -> float | None:
        """None for no trials."""
        return self.events / self.trials if self.trials else None

    @property
    def interval(self) -> tuple[float, float]:
        """The two-sided exact interval of 95 % confidence, half of the error on each side."""
        alpha = (1 - CONFIDENCE) / 2
        return (
            1 - upper_bound(self.trials - self.events, self.trials, alpha),
            upper_bound(self.events, self.trials, alpha),
        )


@lru_cache(maxsize=4096)  # a sweep asks for the same counts at many thresholds
def upper_bound(events: int, trials: int, alpha: float) -> float:
    """The largest rate at which ``events`` or fewer of ``trials`` have a probability ≥ alpha."""
    if events == trials:
        return 1.0
    if events == 0:
        return float(-np.expm1(np.log(alpha) / trials))
    log_binomials = _log_binomials(events, trials)
    low, high = events / trials, 1.0
    while low < (middle := (low + high) / 2) < high:
        if _probability_of_fewer(log_binomials, trials, middle) >= alpha:
            low = middle
        else:
            high = middle
    return high


def _log_binomials(events: int, trials: int) -> NDArray[np.float64]:
    """ln C(trials, k) for k = 0…events: [events + 1]."""
    k = np.arange(1, events + 1, dtype=np.float64)
    return np.concatenate([[0.0], np.cumsum(np.log((trials + 1 - k) / k))])


def _probability_of_fewer(log_binomials: NDArray[np.float64], trials: int, rate: float) -> float:
    """P(at most k events) with k + 1 = the number of binomials."""
    k = np.arange(len(log_binomials))
    logs = log_binomials + k * np.log(rate) + (trials - k) * np.log1p(-rate)
    return float(np.exp(logs).sum())
