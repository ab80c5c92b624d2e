"""Precision formats: range and spacing of the numbers that weights and activations are kept in.

A floating-point format with E exponent and M mantissa bits, bias = 2^(E−1) − 1:
    normal:     ±2^(e − bias) · (1 + m/2^M),  e = 1 … the largest exponent field
    subnormal:  ±2^(1 − bias) · m/2^M,        e = 0
    eps = 2^−M,  ulp(x) = 2^floor(log2 |x|) · eps, and never less than the smallest subnormal.
IEEE formats give the last exponent field to infinity and NaN; E4M3FN gives up just the one pattern
S.1111.111, so that its largest number is 448 where IEEE rules would end at 240.

A signed integer format is the case without exponent: all its numbers are 1 apart. Its range is the
symmetric one, ±(2^(b−1) − 1), that `affine.SymmetricFormat` uses.

NF4 and FP4 have no place here: the levels of NF4 follow no exponent, and those of bitsandbytes'
FP4 leave the rule at the smallest (1/16 in place of 1). `codebook` lists both.

Sources: IEEE 754-2008, section 3.3 and table 3.5; Micikevicius et al. 2022, "FP8 Formats for Deep
Learning", table 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FormatInfo:
    """What `torch.finfo` says, for formats that torch computes in and for those that it does not.

    ``finite_only``: no infinity, and NaN for no more than the pattern of all ones.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int  # stored ones: without the leading 1 of normal numbers
    finite_only: bool = False

    @property
    def bits(self) -> int:
        """Of a number, its sign included."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """What is taken off an exponent field. Integers: such that neighbours are 1 apart."""
        return (1 << self.exponent_bits - 1) - 1 if self.exponent_bits else 1 - self.mantissa_bits

    @property
    def largest(self) -> float:
        """The largest finite number."""
        if not self.exponent_bits:
            return float((1 << self.mantissa_bits) - 1)
        top_field = (1 << self.exponent_bits) - (1 if self.finite_only else 2)
        # In units of the last place: all mantissa bits set, but for the pattern that is NaN.
        significand = (2 << self.mantissa_bits) - (2 if self.finite_only else 1)
        return significand * 2.0 ** (top_field - self.bias - self.mantissa_bits)

    @property
    def smallest_normal(self) -> float:
        """The smallest positive number of full relative precision; 1 for integers."""
        return 2.0 ** (1 - self.bias) if self.exponent_bits else 1.0

    @property
    def smallest_subnormal(self) -> float:
        """The smallest positive number."""
        return 2.0 ** (1 - self.bias - self.mantissa_bits)

    @property
    def eps(self) -> float:
        """Distance from 1 to the next larger number."""
        return 2.0**-self.mantissa_bits if self.exponent_bits else 1.0


FORMATS: dict[str, FormatInfo] = {
    info.name: info
    for info in (
        FormatInfo("float64", 11, 52),
        FormatInfo("float32", 8, 23),
        FormatInfo("float16", 5, 10),
        FormatInfo("bfloat16", 8, 7),
        FormatInfo("float8_e4m3fn", 4, 3, finite_only=True),
        FormatInfo("float8_e5m2", 5, 2),
        *(FormatInfo(f"int{bits}", 0, bits - 1) for bits in range(8, 1, -1)),
    )
}


def format_info(name: str | torch.dtype) -> FormatInfo:
    """The format of that name, or of a torch dtype.

    Raises:
        ValueError: `FORMATS` has none of that name.
    """
    key = str(name).removeprefix("torch.")
    if key not in FORMATS:
        raise ValueError(f"no precision format {key!r}; there are: {', '.join(FORMATS)}")
    return FORMATS[key]


def ulp(values: Tensor, name: str | torch.dtype) -> Tensor:
    """Distance from |values| to the next larger number of the format, float64, shape kept.

    Beyond the largest number the spacing goes on as if the exponent had no end; infinity is
    infinitely far from the next number, and NaN stays NaN.

    Raises:
        ValueError: `FORMATS` has none of that name.
    """
    return spacing(values, format_info(name)).masked_fill_(values.isnan(), math.nan)


def spacing(values: Tensor, info: FormatInfo) -> Tensor:
    """`ulp` for a format given by itself, of values that are not NaN."""
    if not info.exponent_bits:
        return torch.ones_like(values, dtype=torch.float64)
    # The exponent bits of a float64 alone are the power of two below it: exact where log2 is not.
    powers = values.double().contiguous().view(torch.int64).bitwise_and(0x7FF << 52)
    return powers.view(torch.float64).mul(info.eps).clamp_(min=info.smallest_subnormal)
