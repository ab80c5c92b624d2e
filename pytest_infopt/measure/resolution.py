"""Whether values have the resolution of the format that they are said to be in.

Values of a smooth distribution, rounded to a format, lie on one number as often as on each of its
two neighbours: of the pairs that are equal or neighbours, a third is equal. Values on a coarser
grid (8-bit codes, decoded) are equal much more often than they are neighbours, for the grid leaves
the neighbours out. Scale and shape of the distribution drop out.

Legend: ..., G groups, N values of a group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

# Of the equal and the neighbouring pairs; a third under rounding alone. Products of 8-bit
# activations lie a little closer together than that; of 8-bit codes it is nine tenths and more.
_EQUAL_SHARE = 1 / 2
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Resolution:
    """Pairs of values of one group: how many were looked at, are equal, are neighbours."""

    pairs: int
    equal: int
    neighbours: int

    @property
    def bits(self) -> float:
        """log2 of how many numbers the values could as well have been drawn from, evenly."""
        return math.log2(max(1, self.pairs) / max(1, self.equal))

    def coarser(self, false_alarms: float) -> bool:
        """Whether more pairs are equal than rounding to the format makes.

        It says so of sound values in at most the share ``false_alarms`` of cases (Chernoff's bound
        on a binomial tail).
        """
        count = self.equal + self.neighbours
        if not count or self.equal / count <= _EQUAL_SHARE:
            return False
        return count * _divergence(self.equal / count, _EQUAL_SHARE) > -math.log(false_alarms)


def resolution_of(groups: torch.Tensor, dtype: torch.dtype) -> Resolution:
    """Of groups [..., N] of values, in units of the last place of ``dtype``. Zeros are left out."""
    order = _in_order(groups.detach().to(dtype).cpu()).reshape(-1, groups.shape[-1])
    values = order.sort(-1).values  # [G, N]
    equal = neighbours = 0
    for distance in range(1, values.shape[-1]):
        gaps = values[:, distance:] - values[:, :-distance]
        near = (gaps <= 1) & (values[:, distance:] != 0) & (values[:, :-distance] != 0)
        if not bool(near.any()):
            break
        equal += int((near & (gaps == 0)).sum())
        neighbours += int((near & (gaps == 1)).sum())
    count = values.shape[-1]
    return Resolution(values.shape[0] * count * (count - 1) // 2, equal, neighbours)


def _in_order(values: torch.Tensor) -> torch.Tensor:
    """Floats as integers: neighbours of the format are one apart, both zeros are 0."""
    bits = values.contiguous().view(_BITS[values.element_size()]).long()
    lowest = torch.iinfo(_BITS[values.element_size()]).min
    return torch.where(bits < 0, lowest - bits, bits)


def _divergence(share: float, expected: float) -> float:
    """KL(share ‖ expected) of two coins, in nats."""
    rest = 0.0 if share == 1 else (1 - share) * math.log((1 - share) / (1 - expected))
    return share * math.log(share / expected) + rest
