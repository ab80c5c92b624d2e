"""Code books: 4-bit formats whose levels are a table, scaled by the group's absmax.

w ≈ values[code] · absmax, and code is that of the level nearest to w / absmax; exactly between two
levels the lower one (towards −1) is taken, as in the kernels of bitsandbytes. So the error is at
most half the widest gap between levels, times absmax.

Every book holds 0, so that pruned weights stay 0, and ±1, so that the largest weight is kept.

Sources: Dettmers et al. 2023, "QLoRA", appendix E (NF4); bitsandbytes' table of FP4 values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from .scales import absmax, divisor


@dataclass(frozen=True)
class CodeBook:
    """A number format (`number_format.NumberFormat`) given by its levels, in code order."""

    name: str
    values: tuple[float, ...]

    code_dtype = torch.uint8
    extent = 1.0

    def __post_init__(self) -> None:
        if len(self.values) != 2**self.bits:
            raise ValueError(f"{self.name} has {len(self.values)} values; a power of two is needed")
        if self.bits > 4:
            raise ValueError(f"{self.name} has {len(self.values)} values; pairs need 16 or fewer")
        if 0.0 not in self.values or max(map(abs, self.values)) != 1.0:
            raise ValueError(f"{self.name} must hold 0, and a largest magnitude of exactly 1")

    @property
    def bits(self) -> int:
        return (len(self.values) - 1).bit_length()

    @property
    def rounding_error(self) -> float:
        """Half the widest gap between neighbouring levels, in units of absmax."""
        return float(self._levels(torch.device("cpu")).diff().max()) / 2

    def ideal_scales(self, low: Tensor, high: Tensor) -> Tensor:
        """absmax of each group, float64."""
        return absmax(low, high)

    def zero_points(self, low: Tensor, scales: Tensor) -> None:
        """A code book has none."""

    def encode(self, rows: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
        """Codes, uint8 [R, n], of float64 rows [R, n] with scales [R, 1]."""
        # FP4 has two zeros; the first of equal levels is used, the other code never occurs.
        ascending = [self.values.index(value) for value in sorted(set(self.values))]
        levels = self._levels(rows.device)
        midpoints = (levels[:-1] + levels[1:]) / 2
        normalised = (rows / divisor(scales)).contiguous()
        # A midpoint goes to the level below.
        nearest = torch.bucketize(normalised, midpoints, out_int32=True)
        codes = torch.tensor(ascending, dtype=torch.uint8, device=rows.device)
        return codes.index_select(0, nearest.view(-1)).view(rows.shape)

    def decode(self, codes: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
        """values[codes] · scales, [R, n] in the scales' dtype."""
        flat = codes.reshape(-1)
        # A copy of even length: pairs are read as words, which lie at even places without gaps.
        pairs = flat.new_zeros(flat.numel() + flat.numel() % 2)
        pairs[: flat.numel()] = flat
        wide = torch.complex128 if scales.dtype is torch.float64 else torch.complex64
        levels = self._level_pairs.to(device=codes.device, dtype=wide)
        # index_select: on a CPU several times faster than levels[…].
        values = torch.view_as_real(levels.index_select(0, pairs.view(torch.int16).int()))
        return values.reshape(-1)[: flat.numel()].view(codes.shape).mul_(scales)

    def half_gaps(self, rows: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
        """Half the gap between neighbouring levels around each weight; inf beyond ±absmax."""
        levels = self._levels(rows.device)
        normalised = (rows / divisor(scales)).contiguous()
        above = torch.bucketize(normalised, levels).clamp_(1, len(levels) - 1)
        halves = (levels.diff() / 2)[above - 1] * scales
        return torch.where(rows.abs() <= scales, halves, math.inf)

    def _levels(self, device: torch.device) -> Tensor:
        """The distinct levels, ascending, float64; they are published in float32."""
        levels = torch.tensor(sorted(set(self.values)), dtype=torch.float32, device=device)
        return levels.double()

    @cached_property
    def _level_pairs(self) -> Tensor:
        """Levels of two neighbouring codes as one complex number, at index first + 256·second.

        Looking up two at a time halves what decoding costs. complex64, since the levels are
        published in float32: decoding to float64 gives the same numbers.
        """
        # The table outlives this call: not on a default device that happens to be set now.
        levels = torch.tensor(self.values, dtype=torch.float32, device="cpu")
        first = functional.pad(levels, (0, 256 - len(self.values)))
        return torch.complex(first.repeat(len(self.values)), levels.repeat_interleave(256))


# The quantiles of a normal distribution, normalised to [−1, 1]: 8 on the negative side, 9 on the
# positive one, 0 shared. Listed as published, to the last bit of float32; a test recomputes them.
NF4 = CodeBook(
    "nf4",
    (
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ),
)

# A sign bit, 2 exponent and 1 mantissa bit, in the order of the bit patterns; largest level 12.
_FP4_MAGNITUDES = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
FP4 = CodeBook("fp4", tuple(sign * m / 12.0 for sign in (1.0, -1.0) for m in _FP4_MAGNITUDES))

CODEBOOKS: dict[str, CodeBook] = {book.name: book for book in (NF4, FP4)}
