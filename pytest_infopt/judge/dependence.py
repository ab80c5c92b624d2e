"""Over how many samples in a row values depend on each other, measured on the values themselves.

What never happened while measuring cannot be seen: a burst of slow requests that comes once an
hour leaves no trace in a minute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_NOTICED = 2.33  # standard errors of a correlation between neighbours: 1 % of independent sequences
_WINDOW = 5  # correlation times that the sum of correlations goes over (Sokal 1997)
FEWEST_UNITS = 50  # with fewer, dependence is not noticed where there is some
_FEWEST_BLOCKS = 20  # with fewer, one correlation time is not told from another
_BLOCK = 3  # correlation times after which samples count as independent


def dependence_length(values: Sequence[float]) -> int:
    """How many values in a row count as one independent sample; 1 where neighbours do not
    correlate noticeably.

    Ranks are correlated, which outliers do not bend. The length is three times the integrated
    correlation time 1 + 2·Σ ρ, summed over a window of five of them (Sokal 1997, "Monte Carlo
    methods in statistical mechanics"). Where that leaves fewer than 20 independent samples, it is
    the number of values: all together are one.
    """
    n = len(values)
    if n < 3:
        return 1
    ranks = _centred_ranks(values)
    variance = math.fsum(rank * rank for rank in ranks)
    if not variance or _correlation(ranks, 1, variance) * math.sqrt(n) < _NOTICED:
        return 1
    time, lag = 1.0, 0
    while lag < min(_WINDOW * time, n - 1):
        lag += 1
        time += 2 * _correlation(ranks, lag, variance)
        if _FEWEST_BLOCKS * _BLOCK * time > n:
            return n
    return max(2, math.ceil(_BLOCK * time))


def _centred_ranks(values: Sequence[float]) -> list[float]:
    """Ranks, equal values at their mean rank, less their mean."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks, start = [0.0] * len(values), 0
    while start < len(order):
        stop = start
        while stop < len(order) and values[order[stop]] == values[order[start]]:
            stop += 1
        for place in order[start:stop]:
            ranks[place] = (start + stop - len(order)) / 2
        start = stop
    return ranks


def _correlation(centred: Sequence[float], lag: int, variance: float) -> float:
    return math.fsum(a * b for a, b in zip(centred, centred[lag:], strict=False)) / variance
