"""Quantized weights: packed codes, scales and zero points, and the way there and back.

quantize: rows of weights that share a scale (`grouping`) → range → scale, rounded as stored
(`scales`, `double_quantization`) → codes (`number_format`) → bytes (`packing`).

Contract. The input is not modified; shape and dtype come back. 0 decodes to exactly 0; a group of
zeros has scale 0. NaN, infinity, an empty tensor or integers raise. Groups do not influence each
other (under double quantization they do, through the mean of the scales). Everything is
deterministic, and computed in float64 before it is stored; so float64 weights below 1e-300, where
that runs out of precision, are the one case in which the error bound does not hold.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import require_finite
from .double_quantization import BLOCK, compress_scales, decompress_scales
from .grouping import from_rows, scale_shape, to_rows
from .number_format import number_format
from .packing import pack, unpack
from .scales import store_scales
from .scheme import QuantizationScheme


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """Weights as codes and constants.

    ``stored_scales`` are the scales, or, under double quantization, their 8-bit codes, which
    ``scale_steps`` and ``scale_mean`` decode. Scales and zero points have shape `scale_shape`.
    """

    scheme: QuantizationScheme
    shape: torch.Size
    dtype: torch.dtype
    codes: Tensor  # uint8 [ceil(n·bits/8)], or [n] unpacked
    stored_scales: Tensor
    zero_points: Tensor | None = None  # uint8
    scale_steps: Tensor | None = None  # float32, one for each block of 256 scales
    scale_mean: Tensor | None = None  # float32 []

    @property
    def scales(self) -> Tensor:
        """The scales that decoding uses, shape `scale_shape`."""
        if self.scale_steps is None or self.scale_mean is None:
            return self.stored_scales
        flat = self.stored_scales.reshape(-1)
        scales = decompress_scales(flat, self.scale_steps, self.scale_mean)
        return scales.view(self.stored_scales.shape)

    @property
    def constants(self) -> dict[str, Tensor]:
        """Every tensor that has to be kept, by field name."""
        names = ("codes", "stored_scales", "zero_points", "scale_steps", "scale_mean")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def nbytes(self) -> int:
        """Bytes of all that is stored: codes, scales, zero points."""
        return sum(constant.nbytes for constant in self.constants.values())

    def unpacked_codes(self) -> Tensor:
        """The codes in the weights' shape: int8 for signed formats, else uint8."""
        dtype = number_format(self.scheme).code_dtype
        bits = self.scheme.bits if self.scheme.packed else 8
        return unpack(self.codes, bits, self.shape.numel(), dtype).view(self.shape)

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weights, in their own dtype or the given one.

        Computed in float32 (float64 for float64, where the products are exact) and rounded once.
        """
        dtype = dtype or self.dtype
        scales = self.scales.to(torch.promote_types(dtype, torch.float32)).reshape(-1, 1)
        zero_points = None if self.zero_points is None else self.zero_points.reshape(-1, 1)
        codes = to_rows(self.unpacked_codes(), self.scheme)
        rows = number_format(self.scheme).decode(codes, scales, zero_points)
        return from_rows(rows, self.shape, self.scheme).to(dtype)

    def error_bound(self) -> Tensor:
        """The largest possible |weight − dequantize(float64)| of each group, float64 `scale_shape`.

        rounding_error · scale. A zero-point grid adds what its ends can lose to the rounding of the
        scale, double quantization what a scale that came out too small cuts off.
        """
        form, scales = number_format(self.scheme), self.scales.double()
        bound = form.rounding_error * scales
        if self.zero_points is not None:
            # How far the scale may have been rounded down: relative, but absolute for subnormals.
            limits = torch.finfo(self.scheme.scale_dtype)
            short = limits.eps * scales.clamp(min=limits.smallest_normal) / 2
            bound = bound + torch.minimum(form.extent * short, form.rounding_error * scales)
        if self.scale_steps is not None:
            steps = self.scale_steps.double().repeat_interleave(BLOCK.group_size or 1)
            lost = steps[: scales.numel()].view(scales.shape) / 2
            bound = bound + lost + torch.finfo(torch.float32).eps * (scales + lost)
        return bound


@torch.no_grad()
def quantize(weight: Tensor, scheme: QuantizationScheme) -> QuantizedTensor:
    """Quantizes a floating-point tensor of any rank.

    Raises:
        ValueError: the weight is empty, not floating point, holds NaN or infinity (the first is
            named), lacks the scheme's axis, or needs a scale beyond the range of scale_dtype.
    """
    check_weight(weight)
    form, shape = number_format(scheme), scale_shape(weight.shape, scheme)
    rows = to_rows(weight.detach().double(), scheme)  # [R, n]
    low, high = rows.amin(dim=1), rows.amax(dim=1)  # [R]
    ideal = form.ideal_scales(low, high)
    steps = mean = None
    if scheme.double_quantization:
        stored, steps, mean = compress_scales(ideal)
        scales = decompress_scales(stored, steps, mean)
    else:
        scales = stored = store_scales(ideal, scheme.scale_dtype, form.rounding_error / form.extent)
    zero_points = form.zero_points(low, scales)
    columns = None if zero_points is None else zero_points[:, None]
    codes = from_rows(form.encode(rows, scales[:, None], columns), weight.shape, scheme)
    quantized = QuantizedTensor(
        scheme=scheme,
        shape=weight.shape,
        dtype=weight.dtype,
        codes=pack(codes, scheme.bits if scheme.packed else 8),
        stored_scales=stored.view(shape),
        zero_points=None if zero_points is None else zero_points.view(shape),
        scale_steps=steps,
        scale_mean=mean,
    )
    _check_overflow(weight, quantized)
    return quantized


def check_weight(weight: Tensor) -> None:
    """Raises ValueError for a weight that is not floating point, empty, or not finite."""
    if not weight.is_floating_point():
        raise ValueError(f"the weight's dtype is {weight.dtype}; only floating point is quantized")
    if not weight.numel():
        raise ValueError(f"the weight is empty, shape {tuple(weight.shape)}; skip this tensor")
    require_finite(weight, "weight")


def _check_overflow(weight: Tensor, quantized: QuantizedTensor) -> None:
    # The level nearest to a weight may lie above it, beyond the largest number of its dtype.
    limit = torch.finfo(weight.dtype).max
    if float(weight.abs().max()) > limit / 2 and not bool(quantized.dequantize().isfinite().all()):
        raise ValueError(
            f"weights up to {float(weight.abs().max()):.6g} round beyond {weight.dtype}'s largest "
            f"number {limit:.6g}; scale them down or convert them to a wider dtype"
        )
