"""Paired right and wrong answers: how unlikely so small a loss is where the truth is a margin.

Of n independent items, answered by reference and candidate, `lost` are right for the reference
alone, `gained` for the candidate alone. The loss of accuracy is p_lost − p_gained; how often either
happens, p_lost + p_gained, is a nuisance. Outcomes are ordered by the score statistic of Tango 1998
("Equivalence test and confidence interval for the difference in proportions for the paired-sample
design"), whose variance is the one under the null: without any discordant item it is not zero, as
a z interval's is. Its tail is summed exactly, and the largest over the nuisance's confidence
interval counts (Berger and Boos 1994, "P values maximized over a confidence set").
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..binomial import upper_bound

__all__ = ["loss_p_value", "null_variance"]

_OUTSIDE = 1e-6  # P(the nuisance lies outside its interval), which is added to the p-value
_NUISANCES = 25
_LEAST = 1e-12  # a discordance that no test tells from none
_DEVIATIONS = 8  # beyond which nothing is summed: less than 1e-14, far below _OUTSIDE

Array = NDArray[np.float64]


@lru_cache(maxsize=4096)
def loss_p_value(lost: int, gained: int, items: int, margin: float) -> float:
    """Against "p_lost − p_gained ≥ margin": small where the loss is clearly smaller.

    With ``lost`` and ``gained`` exchanged and the margin negated, it is the p-value against "the
    loss is at most the margin". Raises ValueError for counts that are none of ``items``, and for a
    margin outside −1…1.
    """
    if min(lost, gained) < 0 or not 0 < lost + gained + 1 <= items + 1 or not -1 < margin < 1:
        raise ValueError(
            f"{lost} lost and {gained} gained of {items} items, margin {margin}: counts are at "
            "least 0 and at most the items together, the margin lies between −1 and 1"
        )
    discordant = lost + gained
    low = max(1 - upper_bound(items - discordant, items, _OUTSIDE / 2), abs(margin), _LEAST)
    high = upper_bound(discordant, items, _OUTSIDE / 2)
    if low >= high:  # so few differ that the loss lies nearer to 0 than the margin
        return _OUTSIDE if margin > 0 else 1.0
    observed = float(_score(np.array(float(lost)), np.array(float(gained)), items, margin))
    tails = (_tail(observed, items, q, margin) for q in np.geomspace(low, high, _NUISANCES))
    return min(1.0, max(tails) + _OUTSIDE)


def _score(lost: Array, gained: Array, items: int, margin: float) -> Array:
    """Tango's statistic: (loss − margin) / its standard error where the margin is the truth."""
    variance = items * null_variance(lost / items, gained / items, margin)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (lost - gained - items * margin) / np.sqrt(variance)
    finite: Array = np.nan_to_num(z, nan=0.0)
    return finite


def null_variance(lost: Array, gained: Array, margin: float) -> Array:
    """The variance of an item's loss where the margin is the truth, fitted to shares of items."""
    b = -lost - gained + (2 - lost + gained) * margin
    c = -gained * margin * (1 - margin)
    rate = (np.sqrt(np.maximum(b * b - 8 * c, 0)) - b) / 4  # of gained, under the null
    variance: Array = 2 * np.maximum(rate, max(0.0, -margin)) + margin * (1 - margin)
    return variance


def _tail(observed: float, items: int, discordance: float, margin: float) -> float:
    """P(score ≤ observed) where p_lost − p_gained = margin and p_lost + p_gained = discordance."""
    rates = (discordance + margin) / 2, (discordance - margin) / 2
    lost, gained = (_counts(items, rate) for rate in rates)
    rest = items - lost[:, None] - gained[None, :]
    logs = _log_factorials(items)
    terms = logs[items] - logs[lost][:, None] - logs[gained][None, :] - logs[np.maximum(rest, 0)]
    for count, rate in ((lost[:, None], rates[0]), (gained[None, :], rates[1]), (rest, None)):
        terms = terms + _times_log(count, 1 - discordance if rate is None else rate)
    score = _score(lost[:, None].astype(float), gained[None, :].astype(float), items, margin)
    kept = (rest >= 0) & (score <= observed + 1e-9 * (1 + abs(observed)))
    return float(np.exp(terms[kept]).sum())


def _counts(items: int, rate: float) -> NDArray[np.int64]:
    """The counts that a rate may give."""
    mean = items * rate
    reach = _DEVIATIONS * np.sqrt(mean + _DEVIATIONS)
    return np.arange(max(0, int(mean - reach)), min(items, int(mean + reach)) + 1)


def _times_log(count: NDArray[np.int64], rate: float) -> Array:
    """count · ln rate, with 0 · ln 0 = 0."""
    logs = count * math.log(rate) if rate > 0 else np.where(count == 0, 0.0, -math.inf)
    return np.asarray(logs, dtype=np.float64)


@lru_cache(maxsize=8)
def _log_factorials(items: int) -> Array:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, items + 1)))])
