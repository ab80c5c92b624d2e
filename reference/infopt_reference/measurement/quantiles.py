"""Quantiles of samples, by the definition of NumPy's method "linear".

Of n sorted samples x_0 … x_{n−1}, the q-quantile lies at the place h = q · (n − 1):
x_⌊h⌋ + (h − ⌊h⌋) · (x_⌈h⌉ − x_⌊h⌋). Source: Hyndman and Fan (1996), definition 7.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

__all__ = ["quantile", "sorted_quantile"]


def quantile(samples: Iterable[float], level: float) -> float:
    """The ``level``-quantile (0 … 1) of all samples; those of several workers are pooled before.

    Raises ValueError for no samples, NaN among them, or a level outside of 0 … 1.
    """
    ordered = sorted(samples)
    if not ordered or any(map(math.isnan, ordered)):
        raise ValueError(f"{len(ordered)} samples, NaN among them or none: no quantile is theirs")
    if not 0 <= level <= 1:
        raise ValueError(f"the level is {level}; a quantile's is between 0 and 1")
    return sorted_quantile(ordered, level)


def sorted_quantile(ordered: Sequence[float], level: float) -> float:
    """The same of ascending samples."""
    position = (len(ordered) - 1) * level
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    part, step = position - below, ordered[above] - ordered[below]
    # From the nearer end, as NumPy does, so that both give the same bits.
    if part < 0.5:
        return ordered[below] + step * part
    return ordered[above] - step * (1 - part)
