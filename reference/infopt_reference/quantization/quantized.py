"""Quantized weights: packed codes, scales and zero points, and the way there and back.

quantize: rows of weights that share a scale (`grouping`) → range → scale, rounded as stored
(`scales`, `double_quantization`) → codes (`number_format`) → bytes (`packing`).

Contract. The input is not modified; shape and dtype come back. 0 decodes to exactly 0; a group of
zeros has scale 0. NaN, infinity, an empty tensor or integers raise. Groups do not influence each
other (under double quantization they do, through the mean of the scales). Everything is
deterministic, and computed in float64 before it is stored; so float64 weights below 1e-300, where
that runs out of precision, are the one case in which the error bound does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .checks import require_finite
from .double_quantization import BLOCK, compress_scales, decompress_scales
from .grouping import CACHED_ELEMENTS, cache_blocks, from_rows, scale_shape, to_rows
from .packing import pack, unpack
from .scales import store_scales
from .scheme import Granularity, QuantizationScheme, number_format


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
        codes = unpack(self.codes, self.scheme.stored_bits, self.shape.numel(), dtype)
        return codes.view(self.shape)

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weights, in their own dtype or the given one.

        Computed in float32 (float64 for float64, where the products are exact) and rounded once.
        """
        dtype = dtype or self.dtype
        scales, zero_points = self.columns(torch.promote_types(dtype, torch.float32))
        codes = to_rows(self.unpacked_codes(), self.scheme)
        rows = _blockwise(number_format(self.scheme).decode, codes, scales, zero_points, dtype)
        return from_rows(rows, self.shape, self.scheme)

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
            rounded_off = torch.finfo(torch.float32).eps * (scales + lost)
            bound = bound + form.extent * (lost + rounded_off)
        return bound

    def element_error_bound(self, weight: Tensor) -> Tensor:
        """The largest possible |weight − dequantize(float64)| of each element, float64.

        Rounding to the nearer of two levels moves a weight by at most half their distance: half a
        step where steps are equal, less near 0 where the levels of a code book or of FP8 are
        denser. Beyond the outermost levels, where a scale that was stored too small clips, the
        bound of the group holds (`error_bound`), and nowhere is it exceeded.

        Raises:
            ValueError: the weight has another shape than the one that was quantized.
        """
        if weight.shape != self.shape:
            raise ValueError(
                f"the weight has shape {tuple(weight.shape)}; {tuple(self.shape)} was quantized"
            )
        rows = to_rows(weight.detach().double(), self.scheme)
        halves = number_format(self.scheme).half_gaps(rows, *self.columns(torch.float64))
        bound = halves.minimum(self.error_bound().reshape(-1, 1))
        return from_rows(bound, self.shape, self.scheme)

    def columns(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Scales, in this dtype, and zero points, each [R, 1]."""
        zero_points = None if self.zero_points is None else self.zero_points.reshape(-1, 1)
        return self.scales.to(dtype).reshape(-1, 1), zero_points


@torch.no_grad()
def quantize(weight: Tensor, scheme: QuantizationScheme) -> QuantizedTensor:
    """Quantizes a floating-point tensor of any rank.

    Raises:
        ValueError: the weight is empty, not floating point, holds NaN or infinity (the first is
            named), lacks the scheme's axis, or needs a scale beyond the range of scale_dtype.
    """
    check_weight(weight)
    form, shape = number_format(scheme), scale_shape(weight.shape, scheme)
    rows = to_rows(weight.detach(), scheme)  # [R, n]
    low, high = rows.amin(dim=1).double(), rows.amax(dim=1).double()  # [R]
    ideal = form.ideal_scales(low, high)
    steps = mean = None
    if scheme.double_quantization:
        stored, steps, mean = compress_scales(ideal)
        scales = decompress_scales(stored, steps, mean)
    else:
        scales = stored = store_scales(ideal, scheme.scale_dtype, form.rounding_error / form.extent)
    zero_points = form.zero_points(low, scales)
    zero_points = None if zero_points is None else zero_points.view(shape)
    quantized = encode(weight, scheme, stored.view(shape), zero_points, steps, mean)
    _check_overflow(max(-float(low.min()), float(high.max())), quantized)
    return quantized


def quantize_activations(x: Tensor, scheme: QuantizationScheme) -> QuantizedTensor:
    """Codes and constants of activations x [..., K] as tokens; the result has the shape [T, K].

    All leading axes are flattened: per channel of axis 0 is per token (`activations`).

    Raises:
        ValueError: as `quantize` does; there is no token, or a value is not finite.
    """
    return quantize(x.reshape(-1, x.shape[-1]), scheme)


def encode(
    weight: Tensor,
    scheme: QuantizationScheme,
    scales: Tensor,
    zero_points: Tensor | None,
    steps: Tensor | None = None,
    mean: Tensor | None = None,
) -> QuantizedTensor:
    """The weight in codes of given constants, as `QuantizedTensor` stores them."""
    form = number_format(scheme)
    codes = torch.empty(0, dtype=torch.uint8)  # for now
    quantized = QuantizedTensor(
        scheme, weight.shape, weight.dtype, codes, scales, zero_points, steps, mean
    )
    codes = _blockwise(
        lambda block, *columns: form.encode(block.double(), *columns),
        to_rows(weight.detach(), scheme),
        *quantized.columns(torch.float64),
        form.code_dtype,
    )
    packed = pack(from_rows(codes, weight.shape, scheme), scheme.stored_bits)
    return replace(quantized, codes=packed)


def joined(parts: Sequence[QuantizedTensor]) -> QuantizedTensor:
    """Quantized matrices [M, K] one below the other, bit for bit.

    Raises:
        ValueError: their scheme has constants that belong to no row: per tensor, per channel of
            another axis than 0, or double quantization.
    """
    first = parts[0]
    if not separable(first.scheme):
        raise ValueError(f"matrices in {first.scheme} share constants and cannot be joined")
    codes = torch.cat([part.unpacked_codes() for part in parts])
    zero_points = [part.zero_points for part in parts if part.zero_points is not None]
    return replace(
        first,
        shape=codes.shape,
        codes=pack(codes, first.scheme.stored_bits),
        stored_scales=torch.cat([part.stored_scales for part in parts]),
        zero_points=torch.cat(zero_points) if zero_points else None,
    )


def parted(weight: QuantizedTensor) -> list[QuantizedTensor]:
    """A quantized matrix [M, K] as matrices of about `CACHED_ELEMENTS` weights, whose constants are
    views: `joined` makes it whole again. What is not `separable`, or small, is one part."""
    rows, length = weight.shape
    # A multiple of 8 rows ends with a whole byte at any width of codes.
    height = max(1, CACHED_ELEMENTS // length // 8) * 8
    if rows < 2 * height or not separable(weight.scheme):
        return [weight]
    bits, zero_points = weight.scheme.stored_bits, weight.zero_points
    return [
        replace(
            weight,
            shape=torch.Size([min(height, rows - top), length]),
            codes=weight.codes[top * length * bits // 8 : (top + height) * length * bits // 8],
            stored_scales=weight.stored_scales[top : top + height],
            zero_points=None if zero_points is None else zero_points[top : top + height],
        )
        for top in range(0, rows, height)
    ]


def separable(scheme: QuantizationScheme) -> bool:
    """Whether every row of a matrix has constants of its own."""
    rowwise = scheme.granularity is Granularity.CHANNEL and scheme.axis in (0, -2)
    grouped = scheme.granularity is Granularity.GROUP
    return (rowwise or grouped) and not scheme.double_quantization


def _blockwise(
    convert: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    rows: Tensor,
    scales: Tensor,
    zero_points: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """``convert`` (a format's encode or decode) of rows [R, n], a block at a time.

    Every element is converted by itself, so the blocks change no result; but the float64 numbers of
    a whole matrix would travel through main memory several times, and that is what takes longest.
    """
    blocks = list(cache_blocks(rows.shape))
    if len(blocks) == 1:
        return convert(rows, scales, zero_points).to(dtype)
    converted = torch.empty(rows.shape, dtype=dtype, device=rows.device)
    for groups, elements in blocks:
        offsets = None if zero_points is None else zero_points[groups]
        converted[groups, elements] = convert(rows[groups, elements], scales[groups], offsets)
    return converted


def check_weight(weight: Tensor) -> None:
    """Raises ValueError for a weight that is not floating point, empty, or not finite."""
    if not weight.is_floating_point():
        raise ValueError(f"the weight's dtype is {weight.dtype}; only floating point is quantized")
    if not weight.numel():
        raise ValueError(f"the weight is empty, shape {tuple(weight.shape)}; skip this tensor")
    require_finite(weight, "weight")


def _check_overflow(largest: float, quantized: QuantizedTensor) -> None:
    # The level nearest to a weight may lie above it, beyond the largest number of its dtype.
    limit = torch.finfo(quantized.dtype).max
    if largest > limit / 2 and not bool(quantized.dequantize().isfinite().all()):
        raise ValueError(
            f"weights up to {largest:.6g} round beyond {quantized.dtype}'s largest number "
            f"{limit:.6g}; scale them down or convert them to a wider dtype"
        )
