"""N:M storage: of each M neighbours the N values that are kept, and where they stood.

For [..., K] weights with N of each M not 0: values [..., K/M · N] in the weights' dtype and one
position of ceil(log2 M) bits for each, packed without gaps. 2:4 in 16 bit takes 2·16 + 2·2 = 36
bits a group in place of 64: 0.5625 of the dense bytes, not half.

Contract. decompress(compress(w)) equals w in every element. Zeros are not told apart by sign: −0
may come back as 0. A group with fewer than N values stores zeros among them.

This is a container. It does not promise the byte layout of any GPU's sparse instructions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..quantization.packing import pack, unpack
from .masks import check_pattern


@dataclass(frozen=True, eq=False)
class NMSparseTensor:
    """Weights of a pattern N:M along the last axis."""

    pattern: tuple[int, int]
    shape: torch.Size
    values: Tensor  # [..., K/M · N], in the order in which they stood
    positions: Tensor  # uint8 [bytes]: for each value its place in its group, 0…M − 1, packed

    @property
    def nbytes(self) -> int:
        """Bytes of all that is stored."""
        return self.values.nbytes + self.positions.nbytes

    @property
    def dense_nbytes(self) -> int:
        """Bytes of the same weights stored densely."""
        return self.shape.numel() * self.values.element_size()

    def decompress(self) -> Tensor:
        """The dense weights."""
        kept, group = self.pattern
        positions = unpack(self.positions, _position_bits(group), self.values.numel())
        groups = self.values.new_zeros(self.values.numel() // kept, group)  # [G, M]
        groups.scatter_(1, positions.view(-1, kept).long(), self.values.reshape(-1, kept))
        return groups.view(self.shape)


def compress(weight: Tensor, pattern: tuple[int, int] = (2, 4)) -> NMSparseTensor:
    """Stores a weight [..., K] that is N:M sparse along its last axis.

    Raises:
        ValueError: the pattern is none or its groups are larger than 256, M does not divide K, or a
            group has more than N values that are not 0 (the first is named).
    """
    kept, group = check_pattern(pattern)
    if group > 256:
        raise ValueError(f"the pattern is {kept}:{group}; positions of up to 8 bits are stored")
    if not weight.ndim or not weight.numel() or weight.shape[-1] % group:
        raise ValueError(
            f"the weight has shape {tuple(weight.shape)}; {kept}:{group} needs a last axis that "
            f"{group} divides"
        )
    groups = weight.detach().reshape(-1, group)  # [G, M]
    _check_counts(groups, weight.shape, kept)
    # The values first, filled up with zeros where they are fewer, then in their own order again.
    order = (groups != 0).sort(dim=1, descending=True, stable=True).indices
    positions = order[:, :kept].sort(dim=1).values  # [G, N]
    values = groups.gather(1, positions)
    return NMSparseTensor(
        pattern=(kept, group),
        shape=weight.shape,
        values=values.view(*weight.shape[:-1], weight.shape[-1] // group * kept),
        positions=pack(positions.to(torch.uint8), _position_bits(group)),
    )


def _position_bits(group: int) -> int:
    return max(1, (group - 1).bit_length())


def _check_counts(groups: Tensor, shape: torch.Size, kept: int) -> None:
    counts = (groups != 0).sum(dim=1)
    if int(counts.max()) <= kept:
        return
    first = int((counts > kept).nonzero()[0])
    size = groups.shape[1]
    where = torch.unravel_index(torch.tensor(first * size), shape)
    raise ValueError(
        f"the {size} weights from {[int(index) for index in where]} have {int(counts[first])} that "
        f"are not 0; {kept}:{size} stores {kept}: prune with n_m_mask first"
    )
