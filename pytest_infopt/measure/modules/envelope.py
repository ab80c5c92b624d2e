"""How far a module may lie from its siblings: a prediction bound that a few faulty ones don't move.

    bound = median + t · Qn · √(1 + π/2n)

The median and Qn (Rousseeuw and Croux 1993, "Alternatives to the median absolute deviation") hold
while fewer than half of the siblings are faulty. t is Student's quantile for the false-accusation
rate of one test. Qn has 82 % of the standard deviation's efficiency, so its degrees of freedom are
taken as .82·(n − 1); the variance of a median is π/2n. Exact for normal siblings up to that
approximation (`tests/measure/test_measure_modules.py` simulates it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

FEWEST_SIBLINGS = 8  # with fewer, Qn of clean siblings is often a third of what it should be
_QN = 2.21914  # makes Qn the standard deviation of a normal distribution
_EFFICIENCY = 0.82
_SMALL = (0.399, 0.994, 0.512, 0.844, 0.611, 0.857, 0.669, 0.872)  # Qn's correction for n = 2…9


@dataclass(frozen=True)
class Envelope:
    """Location and scale of n siblings, and the distance from the location that is granted."""

    location: float
    scale: float
    n: int
    reach: float

    def contains(self, value: float) -> bool:
        return abs(value - self.location) <= self.reach


def envelope(values: Sequence[float], rate: float) -> Envelope:
    """The envelope of siblings' values; a further sound one leaves it on a given side at ``rate``.

    Raises ValueError for fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} siblings have no scale; give at least 2")
    n = len(values)
    location, scale = float(np.median(values)), _qn(values)
    quantile = student_quantile(rate, _EFFICIENCY * (n - 1))
    return Envelope(location, scale, n, quantile * scale * math.sqrt(1 + math.pi / (2 * n)))


def _qn(values: Sequence[float]) -> float:
    """Rousseeuw and Croux's Qn: the C(⌊n/2⌋ + 1, 2)-th smallest distance between two values."""
    n = len(values)
    array = np.asarray(values, dtype=np.float64)
    rows, columns = np.triu_indices(n, 1)
    distances = np.sort(np.abs(array[rows] - array[columns]))
    half = n // 2 + 1
    distance = float(distances[half * (half - 1) // 2 - 1])
    correction = _SMALL[n - 2] if n <= 1 + len(_SMALL) else n / (n + (1.4 if n % 2 else 3.8))
    return _QN * correction * distance


@lru_cache(maxsize=256)
def student_quantile(rate: float, degrees: float) -> float:
    """The value that Student's t of ``degrees`` > 0 exceeds with probability ``rate`` < ½.

    With t = √ν·tan θ the density is cos^(ν−1) θ, which is integrated on a grid.
    """
    if not 0 < rate < 0.5 or degrees <= 0:
        raise ValueError(f"rate {rate} and {degrees} degrees; give a rate in (0, ½), degrees > 0")
    whole = math.sqrt(math.pi) * math.exp(math.lgamma(degrees / 2) - math.lgamma((degrees + 1) / 2))
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        angles = np.linspace(middle, math.pi / 2, 2001)
        tail = float(np.trapezoid(np.cos(angles).clip(0) ** (degrees - 1), angles)) / whole
        low, high = (middle, high) if tail > rate else (low, middle)
        if high - low < 1e-9 * (math.pi / 2 - low):
            break
    return math.sqrt(degrees) * math.tan(low)
