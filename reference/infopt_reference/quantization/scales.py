"""Storing scales: rounding into the storage dtype without ever clipping a group badly.

Codes are computed with the scale that decoding will use, never with the unrounded one.
"""

from __future__ import annotations

import torch
from torch import Tensor

_INTEGER_OF_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def store_scales(ideal: Tensor, dtype: torch.dtype, slack: float) -> Tensor:
    """Rounds non-negative float64 scales to the nearest number of ``dtype``.

    Where that falls short of the ideal by more than the factor 1 + slack, so that the group's
    largest weight would be clipped by more than its rounding error, the next number above is taken.
    This happens among subnormals, where a scale that would underflow to 0 becomes the smallest
    positive number: the group loses resolution, the bound of the scheme holds. 0 stays 0.

    Raises:
        ValueError: a scale exceeds the largest finite number of ``dtype``.
    """
    stored = ideal.to(dtype)
    if not bool(torch.isfinite(stored).all()):
        raise ValueError(
            f"a scale of {ideal.max().item():.3g} exceeds {dtype}'s largest number "
            f"{torch.finfo(dtype).max:.3g}; use a wider scale_dtype"
        )
    short = ideal > stored.double() * (1 + slack)
    return torch.where(short, _next_above(stored), stored)


def _next_above(values: Tensor) -> Tensor:
    # Non-negative floats are ordered as their bit patterns; nextafter does not know float16.
    bits = values.contiguous().view(_INTEGER_OF_SIZE[values.element_size()])
    return (bits + 1).view(values.dtype)


def absmax(low: Tensor, high: Tensor) -> Tensor:
    """The largest magnitude of groups with these smallest and largest weights; never −0."""
    return torch.maximum(low.abs(), high.abs())


def divisor(scales: Tensor) -> Tensor:
    """The scales in float64 with 1 in place of 0: a group of zeros gives codes of 0, not NaN."""
    scales = scales.double()
    return torch.where(scales == 0, 1.0, scales)
