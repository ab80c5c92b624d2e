"""The spacing of floating-point numbers: what one unit in the last place is worth."""

from __future__ import annotations

import torch


def dtype_named(name: str) -> torch.dtype:
    """The floating-point format of an engine's ``dtype``; raises ValueError for any other name."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(
            f"{name!r} names no floating-point format; use float32, bfloat16 or float16"
        )
    return dtype


def ulp(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Distance from |values| to the next larger number of ``dtype``, in float64, shape kept.

    |x| = m·2^e with m in [½, 1) is spaced eps·2^(e−1); below the smallest normal number the spacing
    no longer shrinks (IEEE 754-2008, section 3.3).
    """
    precision = torch.finfo(dtype)
    magnitudes = values.double().abs()
    exponents = torch.frexp(magnitudes).exponent
    spacing = torch.ldexp(torch.full_like(magnitudes, precision.eps), exponents - 1)
    return spacing.clamp(min=precision.smallest_normal * precision.eps)
