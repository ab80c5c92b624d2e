"""Equal steps: absmax (symmetric) and zero-point (asymmetric) quantization.

Symmetric:   qmax = 2^(b−1) − 1,  scale = max|w| / qmax,  q = round(w/scale) clamped to ±qmax,
             w ≈ q · scale.
Asymmetric:  lo, hi = the range widened to contain 0,  scale = (hi − lo) / (2^b − 1),
             zero_point = round(−lo/scale),  q = clamp(round(w/scale) + zero_point, 0, 2^b − 1),
             w ≈ (q − zero_point) · scale.

Rounding is half to even; 0 decodes to exactly 0 in both. The error is at most scale/2 for each
weight; asymmetric weights at the ends of the range may lose (2^b − 1)·u(scale dtype) steps more
(never more than half a step), since there the rounding of the scale counts for the whole range.
Codes are computed in float64, where w/scale of float32 numbers never rounds onto a tie that it is
not.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks", section 2.1.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .scales import absmax, divisor


@dataclass(frozen=True)
class SymmetricFormat:
    """Absmax quantization; a `number_format.NumberFormat`. Codes −qmax…qmax, int8."""

    bits: int

    name = None
    code_dtype = torch.int8
    rounding_error = 0.5

    @property
    def extent(self) -> float:
        """qmax: the largest weight of a group is that many steps away from 0."""
        return float((1 << (self.bits - 1)) - 1)

    def ideal_scales(self, low: Tensor, high: Tensor) -> Tensor:
        return absmax(low, high) / self.extent

    def zero_points(self, low: Tensor, scales: Tensor) -> None:
        """The symmetric grid has none."""

    def encode(self, rows: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
        """Codes, int8 [R, n], of float64 rows [R, n] with scales [R, 1]."""
        steps = (rows / divisor(scales)).round_()
        return steps.clamp_(-self.extent, self.extent).to(torch.int8)

    def decode(self, codes: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
        """codes · scales, [R, n] in the scales' dtype."""
        # Convert, then multiply in place: faster on a CPU than one type-promoting product.
        return codes.to(scales.dtype).mul_(scales)

    def half_gaps(self, rows: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
        """Half a step for each weight; inf beyond the last step."""
        return torch.where(rows.abs() <= self.extent * scales, scales / 2, math.inf)


@dataclass(frozen=True)
class AsymmetricFormat:
    """Zero-point quantization; a `number_format.NumberFormat`. Codes 0…2^b − 1, uint8."""

    bits: int

    name = None
    code_dtype = torch.uint8
    rounding_error = 0.5

    @property
    def extent(self) -> float:
        """2^b − 1: a group's range spans that many steps."""
        return float((1 << self.bits) - 1)

    def ideal_scales(self, low: Tensor, high: Tensor) -> Tensor:
        # Without 0 in the range the zero point of one-sided weights would lie outside the codes.
        return (high.clamp(min=0) - low.clamp(max=0)) / self.extent

    def zero_points(self, low: Tensor, scales: Tensor) -> Tensor:
        """The code of 0, uint8."""
        steps = (-low.clamp(max=0) / divisor(scales)).round_()
        return steps.clamp_(0, self.extent).to(torch.uint8)

    def encode(self, rows: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
        """Codes, uint8 [R, n], of float64 rows [R, n] with scales and zero points [R, 1]."""
        assert zero_points is not None
        steps = (rows / divisor(scales)).round_().add_(zero_points)
        return steps.clamp_(0, self.extent).to(torch.uint8)

    def decode(self, codes: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
        """(codes − zero_points) · scales, [R, n] in the scales' dtype."""
        assert zero_points is not None
        # Differences of uint8 would wrap; up to 7 bits they fit into int8, the least to move.
        narrow = torch.int8 if self.bits < 8 else torch.int16
        steps = codes.to(narrow).sub_(zero_points.to(narrow))
        return steps.to(scales.dtype).mul_(scales)

    def half_gaps(self, rows: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
        """Half a step for each weight; inf beyond the first and the last step."""
        assert zero_points is not None
        first = -zero_points.double()
        within = (rows >= first * scales) & (rows <= (first + self.extent) * scales)
        return torch.where(within, scales / 2, math.inf)
