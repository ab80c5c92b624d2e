"""Errors of rows beside those of a control arm: by what factor they are larger, at the least.

One row's error is one draw of a heavy-tailed quantity: at a near-tie of a router it may be thirty
times the usual. The worst row of a control arm therefore says little of what the others may err by;
its distribution does. Legend: R rows, S rows of the control arm.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch

FALSE_ALARMS = 1e-5  # of one comparison


def least_factor(
    errors: torch.Tensor, control: torch.Tensor, false_alarms: float = FALSE_ALARMS
) -> float:
    """A lower confidence bound of the factor by which errors [R] exceed those of a control [S].

    Were the errors f times as large as independent draws of the control's distribution, the bound
    would lie above f with probability ``false_alarms`` at most. It is the bound that belongs to the
    test of Mann and Whitney 1947 (Hodges and Lehmann 1963, of logarithms): the k-th smallest of the
    R·S quotients, where the statistic lies below k that rarely. k is taken of the normal
    distribution of the same variance, whose tails are the heavier. 0 where the rows are too few to
    say anything.
    """
    rows, others = len(errors), len(control)
    pairs = rows * others
    deviation = math.sqrt(pairs * (rows + others + 1) / 12)
    rank = math.floor(pairs / 2 + NormalDist().inv_cdf(false_alarms) * deviation)
    if rank < 1:
        return 0.0
    quotients = (errors[:, None] / control[None]).nan_to_num(nan=0.0, posinf=math.inf)
    return float(quotients.flatten().kthvalue(rank).values)
