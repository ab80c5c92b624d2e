"""How a cost grows with a size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import StatisticsError, linear_regression


def fitted_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float | None:
    """The slope of log cost over log size by least squares; None for fewer than two sizes.

    1 is a cost that grows in proportion, 0 one that does not grow.
    """
    try:
        return linear_regression([*map(math.log, sizes)], [*map(math.log, costs)]).slope
    except StatisticsError:
        return None
