"""Exact tails of the binomial distribution, and the bounds that follow from them.

The bounds of Clopper and Pearson 1934: the upper one is the rate at which so few events or fewer
have a probability of alpha, the lower one that of the non-events turned round. Never too narrow
for independent trials of one rate; for independent trials of different rates neither, where the
bounds lie beyond the mean number of events by one or more (Hoeffding 1956).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["at_most", "upper_bound"]


def at_most(events: int, trials: int, rate: float) -> float:
    """P(X ≤ events) of ``trials`` independent trials of this rate."""
    if events >= trials or rate <= 0:
        return 1.0
    if rate >= 1:
        return 0.0
    return min(1.0, _sum(_log_binomials(events, trials), trials, rate))


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
        if _sum(log_binomials, trials, middle) >= alpha:
            low = middle
        else:
            high = middle
    return high


def _log_binomials(events: int, trials: int) -> NDArray[np.float64]:
    """ln C(trials, k) for k = 0…events: [events + 1]."""
    k = np.arange(1, events + 1, dtype=np.float64)
    return np.concatenate([[0.0], np.cumsum(np.log((trials + 1 - k) / k))])


def _sum(log_binomials: NDArray[np.float64], trials: int, rate: float) -> float:
    """P(at most k events) with k + 1 = the number of binomials."""
    k = np.arange(len(log_binomials))
    logs = log_binomials + k * np.log(rate) + (trials - k) * np.log1p(-rate)
    return float(np.exp(logs).sum())
