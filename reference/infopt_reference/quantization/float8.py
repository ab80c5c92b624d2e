"""FP8: weights as 8-bit floating-point numbers, in the two formats that hardware computes with.

w ≈ decode(code) · scale, scale = max|w| / largest: 448 for E4M3FN, 57 344 for E5M2. A code is the
format's bit pattern, sign | exponent | mantissa. Equal steps spend their levels evenly; here the
error of a weight is in proportion to it, at most |w|/2^(M+1) with M mantissa bits (half an ulp), so
that outliers cost the small weights of their group next to nothing.

The cast rounds half to even, keeps subnormals and the sign of zero, and saturates: what lies
beyond the largest number becomes that number, never infinity (E5M2) or NaN (E4M3FN). It happens
where a scale is stored a little too small, and with fixed scales.

Source: Micikevicius et al. 2022, "FP8 Formats for Deep Learning", section 3 (E4M3 is the format
that torch, ONNX and ml_dtypes call E4M3FN: "finite, NaN").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .checks import require_finite
from .precision import FORMATS, FormatInfo, spacing
from .scales import absmax, divisor


@dataclass(frozen=True)
class Float8Format:
    """An 8-bit floating-point number format; a `number_format.NumberFormat`. Codes are uint8."""

    name: str
    info: FormatInfo

    bits = 8
    code_dtype = torch.uint8

    @property
    def extent(self) -> float:
        """The largest number: a group's absmax lands on it."""
        return self.info.largest

    @property
    def rounding_error(self) -> float:
        """Half the largest ulp, that of the binade in which the largest number lies."""
        return float(spacing(torch.tensor(self.info.largest), self.info)) / 2

    def ideal_scales(self, low: Tensor, high: Tensor) -> Tensor:
        """absmax / largest of each group, float64."""
        return absmax(low, high) / self.extent

    def zero_points(self, low: Tensor, scales: Tensor) -> None:
        """Floating point has none."""

    def encode(self, rows: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
        """Codes, uint8 [R, n], of float64 rows [R, n] with scales [R, 1]."""
        return self._cast(rows / divisor(scales))

    def decode(self, codes: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
        """Numbers of the codes · scales, [R, n] in the scales' dtype."""
        numbers = self.numbers.to(codes.device, scales.dtype)
        # index_select: on a CPU several times faster than numbers[…].
        return numbers.index_select(0, codes.reshape(-1).int()).view(codes.shape).mul_(scales)

    def half_gaps(self, rows: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
        """Half an ulp of each weight; inf beyond the largest number."""
        halves = spacing(rows / divisor(scales), self.info).mul_(0.5) * scales
        return torch.where(rows.abs() <= self.extent * scales, halves, math.inf)

    def _cast(self, values: Tensor) -> Tensor:
        magnitudes = values.abs().clamp_(max=self.info.largest)
        ulps = spacing(magnitudes, self.info)
        steps = magnitudes.div_(ulps).round_()  # 2^M … 2^(M+1); below 2^M for subnormals
        # Each binade above the subnormals has 2^M codes more. A step count of 2^M is the leading 1
        # of a normal number and carries into the exponent field, and so does rounding up to the
        # next binade. An even count is an even mantissa: half to even.
        lowest = math.frexp(self.info.smallest_subnormal)[1]
        binades = torch.frexp(ulps).exponent - lowest
        codes = steps.add_(binades << self.info.mantissa_bits).to(torch.uint8)
        return codes.bitwise_or_(values.signbit().to(torch.uint8) << 7)

    @cached_property
    def numbers(self) -> Tensor:
        """The number of each of the 256 codes, float32, NaN and infinities included."""
        info = self.info
        # The table outlives this call: not on a default device that happens to be set now.
        codes = torch.arange(256, device="cpu")
        mantissas = codes & (1 << info.mantissa_bits) - 1
        fields = codes >> info.mantissa_bits & (1 << info.exponent_bits) - 1
        leading = (fields > 0) << info.mantissa_bits
        exponents = fields.clamp(min=1) - info.bias - info.mantissa_bits
        numbers = (leading + mantissas) * 2.0**exponents
        if info.finite_only:
            numbers[codes & 0x7F == 0x7F] = math.nan
        else:
            top = fields == (1 << info.exponent_bits) - 1
            numbers[top] = torch.where(mantissas[top] == 0, math.inf, math.nan)
        return torch.where(codes < 128, numbers, -numbers)


E4M3FN = Float8Format("e4m3fn", FORMATS["float8_e4m3fn"])
E5M2 = Float8Format("e5m2", FORMATS["float8_e5m2"])


def encode_float8(values: Tensor, form: Float8Format) -> Tensor:
    """Casts values of any shape and floating-point dtype, without a scale: bit patterns, uint8.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    require_finite(values, "values")
    return form._cast(values.double())


def decode_float8(codes: Tensor, form: Float8Format) -> Tensor:
    """The numbers, float32, of bit patterns (uint8) of any shape.

    Raises:
        ValueError: the codes are not uint8.
    """
    if codes.dtype is not torch.uint8:
        raise ValueError(f"codes are {codes.dtype}; bit patterns of 8 bits are torch.uint8")
    return form.numbers.to(codes.device)[codes.long()]
