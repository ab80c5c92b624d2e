"""How a cost grows with a size."""

from __future__ import annotations

import math
from collections.abc import Sequence


def fitted_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float | None:
    """The slope of log cost over log size by least squares; None for fewer than two sizes.

    1 is a cost that grows in proportion, 0 one that does not grow.
    """
    x = [math.log(size) for size in sizes]
    y = [math.log(cost) for cost in costs]
    mean_x, mean_y = sum(x) / max(1, len(x)), sum(y) / max(1, len(y))
    spread = sum((a - mean_x) ** 2 for a in x)
    if not spread:
        return None
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
