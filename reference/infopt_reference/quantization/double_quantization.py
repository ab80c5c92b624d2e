"""Double quantization: the scales of a code book, themselves kept in 8 bit.

scale ≈ code · step + mean: the mean of all scales of the tensor is taken off first (they are all
positive, so it would waste the sign), the rest is quantized symmetrically in blocks of 256 with a
float32 step each. With groups of 64 a weight then costs 4 + 8/64 + 32/(64·256) = 4.127 bits in
place of 4.5.

QLoRA stores the 8-bit codes in a floating-point format; equal steps are used here, which bounds
the error of a scale by step/2. A scale that decodes below 0 is taken as 0: its group, whose weights
are all smaller than step/2, becomes zeros.

Source: Dettmers et al. 2023, "QLoRA", section 3, "Double Quantization".
"""

from __future__ import annotations

import torch
from torch import Tensor

from .affine import SymmetricFormat
from .grouping import from_rows, to_rows
from .scales import store_scales
from .scheme import Granularity, QuantizationScheme

BLOCK = QuantizationScheme(bits=8, granularity=Granularity.GROUP, group_size=256)
_FORMAT = SymmetricFormat(8)


def compress_scales(ideal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 scales [R] as codes (int8 [R]), steps (float32 [blocks]) and mean (float32 [])."""
    mean = ideal.mean().float()
    rows = to_rows(ideal - mean, BLOCK)
    steps = store_scales(
        _FORMAT.ideal_scales(rows.amin(dim=1), rows.amax(dim=1)),
        torch.float32,
        _FORMAT.rounding_error / _FORMAT.extent,
    )
    codes = _FORMAT.encode(rows, steps[:, None], None)
    # A clone: a view would keep the filling of the last block.
    return from_rows(codes, ideal.shape, BLOCK).clone(), steps, mean


def decompress_scales(codes: Tensor, steps: Tensor, mean: Tensor) -> Tensor:
    """The scales, float32 [R], that both encoding and decoding of the weights use."""
    rows = _FORMAT.decode(to_rows(codes, BLOCK), steps[:, None], None) + mean
    return from_rows(rows, codes.shape, BLOCK).clamp(min=0)
