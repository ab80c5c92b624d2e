"""GPTQ: rounding a weight matrix column by column, each error made good by the later columns.

Minimises Σ ‖W·x − Q·x‖² over the calibration tokens, that is tr((W − Q)·H·(W − Q)ᵀ), greedily.
With Hinv = Uᵀ·U, U upper triangular, for each column j from the first to the last:

    q_j = the grid's level nearest to w_j,   e_j = (w_j − q_j) / U[j, j],
    w_k ← w_k − e_j · U[j, k]   for every later column k.

Row j of U is what inverting the Hessian of the columns j…K − 1 anew for every column would give.
Columns are updated in blocks: within one at once, beyond it by one product at the block's end. The
order of additions is all that the block size changes.

Contract.
  Damping: ``damping`` times the mean of H's diagonal is added to it. Where the Cholesky
    factorisation still fails, ten times as much is tried, up to 1; then ValueError.
  Dead columns: a feature that was always 0 (H[j, j] = 0) gets weights 0, which changes no output
    seen in calibration and does not widen its group's range.
  Grid: any scheme; rounding, scales and storage are those of `quantize`. Scales per tensor or per
    channel come from the whole weight. Those of a group come from its weights as they have been
    updated when its first column is reached, or, with ``static_groups``, from the original ones.
  Act order: columns with a large H[j, j] go first. Their groups stay what they were, neighbours in
    the original order, so that the codes are stored as without it; scales must then be known
    before, so act order implies static groups, and so does double quantization.
  Only H up to a positive factor counts. Computed in float64, deterministic, inputs not modified.

Minimising greedily, GPTQ may be worse than rounding to nearest on some row. ``row_fallback`` is an
addition of ours: those rows take the nearest codes, so that no output's error, measured by H, ever
exceeds that of `quantize` (of the weight with its dead columns at 0). Off by default, where the
result is that of the paper.

Left out: storing the permutation of act order with the checkpoint (g_idx), activation grids.

Source: Frantar et al. 2022, "GPTQ", arXiv:2210.17323, section 3 and algorithm 1; static groups as
in the authors' later code.
Legend: M output features (rows), K input features (columns), G groups along K, B block size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from .calibration import check_hessian, output_mse
from .column_grid import StaticGrid, UpdatedGroups
from .packing import pack
from .quantized import QuantizedTensor, quantize
from .scheme import Granularity, QuantizationScheme, number_format

DAMPING = 0.01
BLOCK_SIZE = 128
_LARGEST_DAMPING = 1.0


@torch.no_grad()
def gptq(
    weight: Tensor,
    hessian: Tensor,
    scheme: QuantizationScheme,
    *,
    damping: float = DAMPING,
    block_size: int = BLOCK_SIZE,
    act_order: bool = False,
    static_groups: bool = False,
    row_fallback: bool = False,
) -> QuantizedTensor:
    """Quantizes a weight [M, K] for inputs with the second moments ``hessian`` [K, K].

    Args:
        weight: of a linear layer, floating point.
        hessian: `calibration.HessianStatistics.hessian`, or any positive multiple.
        scheme: per tensor, per channel of axis 0, or per group.
        damping: 0…1, in means of H's diagonal.
        block_size: columns of a block; costs time only.
        act_order: columns in falling order of H's diagonal.
        static_groups: scales of groups from the original weights.
        row_fallback: rows on which round-to-nearest has the smaller output error take its codes.

    Raises:
        ValueError: a shape, an argument or the scheme does not fit, a value is not finite, H is
            not positive semidefinite, or all of it is 0.
    """
    _check_arguments(weight, scheme, damping, block_size)
    check_hessian(hessian, [weight])
    hessian = hessian.double()
    dead = hessian.diagonal() == 0  # [K]
    if bool(dead.all()):
        raise ValueError(
            "the Hessian is 0: no input reached this layer; calibrate with other texts"
        )
    alive = weight.detach().masked_fill(dead, 0)  # [M, K]
    order = _column_order(hessian, act_order)  # [K]
    static = act_order or static_groups or scheme.double_quantization
    grid: StaticGrid | UpdatedGroups
    if scheme.granularity is Granularity.GROUP and not static:
        grid = UpdatedGroups(scheme, weight.dtype)
    else:
        grid = StaticGrid(quantize(alive, scheme))
    factor = inverse_factor(hessian[order][:, order], damping)  # [K, K]
    codes = _round_columns(alive.double(), factor, order, grid, block_size)
    quantized = grid.finish(codes)
    return _better_rows(quantized, alive, hessian) if row_fallback else quantized


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """U, upper triangular with a positive diagonal: Uᵀ·U is the inverse of the damped Hessian.

    Raises:
        ValueError: no damping up to 1 makes the Hessian positive definite.
    """
    diagonal = hessian.diagonal()
    unit = diagonal[diagonal != 0].mean()
    # A dead column is all 0 (the matrix being semidefinite): any positive number decouples it.
    ridge = torch.where(diagonal == 0, unit, 0.0)
    share = damping
    while share <= _LARGEST_DAMPING:
        damped = hessian + torch.diag(ridge + share * unit)
        # Factored from the last column to the first, H = R·Rᵀ with R upper; U is R's inverse.
        lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not bool(failed):
            identity = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
            inverse: Tensor = torch.linalg.solve_triangular(lower, identity, upper=False)
            return inverse.flip(0, 1)
        share = max(10 * share, DAMPING)
    raise ValueError(
        f"the Hessian is not positive definite even with a damping of {share / 10:g}: it is no "
        "sum of x·xᵀ; gather it with HessianStatistics"
    )


def _round_columns(
    weight: Tensor, factor: Tensor, order: Tensor, grid: StaticGrid | UpdatedGroups, block_size: int
) -> Tensor:
    """The codes [M, K] of a float64 weight [M, K]; ``factor`` is that of the ordered columns."""
    form = number_format(grid.scheme)
    columns = weight.T[order].contiguous()  # [K, M]: the weights of a column are neighbours
    original = order.tolist()
    codes = torch.empty(columns.shape, dtype=form.code_dtype, device=weight.device)
    for start, stop in _blocks(len(columns), block_size, grid.updated_group_size):
        errors = torch.empty_like(columns[start:stop])  # [B, M]
        for j in range(start, stop):
            scales, zero_points = grid.constants(original[j], columns)
            code = form.encode(columns[j][:, None], scales, zero_points)  # [M, 1]
            codes[original[j]] = code[:, 0]
            rounded = form.decode(code, scales, zero_points)[:, 0]
            errors[j - start] = (columns[j] - rounded) / factor[j, j]
            columns[j + 1 : stop].addr_(factor[j, j + 1 : stop], errors[j - start], alpha=-1)
        columns[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    return codes.T.contiguous()


def _blocks(length: int, block_size: int, group_size: int | None) -> Iterator[tuple[int, int]]:
    """Start and end of each block of columns.

    A group whose scales come from updated weights must not begin inside a block and end beyond it:
    there its columns still lack the errors of this block.
    """
    start = 0
    while start < length:
        stop = start + block_size
        if group_size is not None and (boundary := stop // group_size * group_size) > start:
            stop = boundary
        yield start, min(stop, length)
        start = stop


def _column_order(hessian: Tensor, act_order: bool) -> Tensor:
    if not act_order:
        return torch.arange(len(hessian), device=hessian.device)
    return torch.argsort(hessian.diagonal(), descending=True, stable=True)


def _better_rows(quantized: QuantizedTensor, weight: Tensor, hessian: Tensor) -> QuantizedTensor:
    """The rows of round-to-nearest where their output error is smaller, else those given."""
    nearest = quantize(weight, quantized.scheme)
    ours, theirs = (
        output_mse(weight, candidate.dequantize(torch.float64), hessian)
        for candidate in (quantized, nearest)
    )
    worse = (ours > theirs)[:, None]  # [M, 1]
    codes = torch.where(worse, nearest.unpacked_codes(), quantized.unpacked_codes())
    stored, zero_points = quantized.stored_scales, quantized.zero_points
    # In the other granularities the scales are those of round-to-nearest already.
    if stored.ndim == 2 and stored.is_floating_point():
        stored = torch.where(worse, nearest.stored_scales, stored)
        if zero_points is not None and nearest.zero_points is not None:
            zero_points = torch.where(worse, nearest.zero_points, zero_points)
    packed = pack(codes, quantized.scheme.stored_bits)
    return replace(quantized, codes=packed, stored_scales=stored, zero_points=zero_points)


def _check_arguments(
    weight: Tensor, scheme: QuantizationScheme, damping: float, block_size: int
) -> None:
    if not 0 <= damping <= _LARGEST_DAMPING:
        raise ValueError(f"damping is {damping}; give a share of the mean diagonal, 0…1")
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; give a number of columns, 1 or more")
    # Scales that several columns share must belong to one row, or to all of them.
    if scheme.granularity is Granularity.CHANNEL and scheme.axis not in (0, -weight.ndim):
        raise ValueError(
            f"the scheme has a scale per channel of axis {scheme.axis}; GPTQ needs scales of rows: "
            "take axis 0, groups or one scale for the tensor"
        )
