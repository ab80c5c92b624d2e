"""AWQ: scaling up the weights of features with large activations before rounding.

Weights W·diag(s) are quantized, and the activations divided by s. A group's step hardly changes
when a few of its features grow, while their error shrinks by s_j. Searched over a ratio r:
    s_j = (mean |x_j|)^r / (mean_i |W_ij| / max |W| of the group)^(1 − r),
normalised to √(max s · min s) = 1; r from 0 to 1 in equal steps, and s = 1, round-to-nearest. Kept
is what makes the mean squared error of all consumers' outputs least:
    tr((W − Q/s)·H·(W − Q/s)ᵀ) / 2,   Q = dequantize(quantize(W·s)).
H stands for the calibration inputs, which need not be kept. The error is thus never above that of
round-to-nearest.

`clip_weights` searches, for each group, how far to clamp its weights before rounding, by the
group's own part of the output error. A row is clipped only where its whole output error falls; rows
that share scales are clipped together, where the sum of their errors falls.

Contract. Scales are float64, finite, positive; 1 for a feature that is always 0 or that no weight
reads, and within a factor 10⁴ of 1. The statistic is the mean: one outlier token changes little.
Deterministic; inputs are not modified.

Left out: searching on the outputs of a whole block in place of those of its linear layers.

Source: Lin et al. 2023, "AWQ", arXiv:2306.00978, section 3; the weights' share of the scale and
the clipping as in the authors' and AutoAWQ's code.
Legend: K features, M outputs, R groups, n weights of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .calibration import check_hessian, output_mse
from .grouping import from_rows, to_rows
from .quantized import quantize
from .scheme import Granularity, QuantizationScheme

STEPS = 20
_LIMIT = 1e4
_SHRINKAGES = tuple(1 - step / 20 for step in range(1, 11))  # to half of the group's range


@dataclass(frozen=True, eq=False)
class AWQScales:
    """What a search found: scales [K], their ratio (None: round-to-nearest), the output error."""

    scales: Tensor
    ratio: float | None
    error: float


@torch.no_grad()
def search_awq_scales(
    weights: Sequence[Tensor],
    mean_abs: Tensor,
    hessian: Tensor,
    scheme: QuantizationScheme,
    *,
    steps: int = STEPS,
) -> AWQScales:
    """The best scales for the layers that read one activation.

    Args:
        weights: of all of them, [M_i, K] each.
        mean_abs: mean |x| of each feature, [K].
        hessian: of the activation, [K, K].
        scheme: what the weights will be quantized to.
        steps: ratios are 0, 1/steps, …, 1.

    Raises:
        ValueError: a shape or steps does not fit, or a value is not finite.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; give the number of ratios to try, 1 or more")
    check_hessian(hessian, weights)
    ones = torch.ones_like(mean_abs, dtype=torch.float64)
    best = AWQScales(ones, None, _error(weights, ones, hessian, scheme))
    for step in range(steps + 1):
        ratio = step / steps
        scales = awq_scales(weights, mean_abs, ratio, scheme)
        error = _error(weights, scales, hessian, scheme)
        if error < best.error:
            best = AWQScales(scales, ratio, error)
    return best


def awq_scales(
    weights: Sequence[Tensor], mean_abs: Tensor, ratio: float, scheme: QuantizationScheme
) -> Tensor:
    """The scales of one ratio, float64 [K]."""
    sizes = torch.cat([_relative_sizes(weight, scheme) for weight in weights]).mean(dim=0)  # [K]
    activations = mean_abs.double()
    read = (sizes > 0) & (activations > 0)
    scales = torch.ones_like(activations)
    if bool(read.any()):
        raw = activations[read] ** ratio / sizes[read] ** (1 - ratio)
        # Root by root: the product of the two may overflow.
        scales[read] = raw / raw.max().sqrt() / raw.min().sqrt()
    return scales.clamp(1 / _LIMIT, _LIMIT)


@torch.no_grad()
def clip_weights(weight: Tensor, hessian: Tensor, scheme: QuantizationScheme) -> Tensor:
    """The weight [M, K], clamped where rounding it then has the smaller output error.

    Raises:
        ValueError: a shape does not fit, or a value is not finite.
    """
    check_hessian(hessian, [weight])
    rows = to_rows(weight, scheme)  # [R, n]
    limits = rows.abs().amax(dim=1, keepdim=True)
    clipped, best = rows, _group_errors(weight, rows, hessian, scheme)
    for shrinkage in _SHRINKAGES:
        limit = limits * shrinkage
        trial = rows.clamp(-limit, limit)
        error = _group_errors(weight, trial, hessian, scheme)
        clipped = torch.where((error < best)[:, None], trial, clipped)
        best = torch.minimum(error, best)
    result = from_rows(clipped, weight.shape, scheme)
    plain, with_clipping = (
        output_mse(weight, quantize(candidate, scheme).dequantize(torch.float64), hessian)
        for candidate in (weight, result)
    )
    if not _rows_are_independent(scheme):  # they are clipped together, or none is
        return result if bool(with_clipping.sum() < plain.sum()) else weight.clone()
    return torch.where((with_clipping < plain)[:, None], result, weight)


def _rows_are_independent(scheme: QuantizationScheme) -> bool:
    if scheme.granularity is Granularity.GROUP:
        return not scheme.double_quantization
    return scheme.granularity is Granularity.CHANNEL and scheme.axis in (0, -2)


def _relative_sizes(weight: Tensor, scheme: QuantizationScheme) -> Tensor:
    """|W| in units of the largest of its group, float64 [M, K]."""
    rows = to_rows(weight.double().abs(), scheme)
    largest = rows.amax(dim=1, keepdim=True)
    return from_rows(rows / torch.where(largest == 0, 1.0, largest), weight.shape, scheme)


def _error(
    weights: Sequence[Tensor], scales: Tensor, hessian: Tensor, scheme: QuantizationScheme
) -> float:
    total = 0.0
    for weight in weights:
        rounded = quantize(weight.double() * scales, scheme).dequantize() / scales
        total += float(output_mse(weight, rounded, hessian).sum())
    return total


def _group_errors(
    weight: Tensor, trial: Tensor, hessian: Tensor, scheme: QuantizationScheme
) -> Tensor:
    """Each group's own part of the output error when ``trial`` [R, n] is rounded: float64 [R]."""
    rounded = quantize(from_rows(trial, weight.shape, scheme), scheme).dequantize(torch.float64)
    error = weight.double() - rounded  # [M, K]
    columns = weight.shape[1]
    size = scheme.group_size or columns
    shares = torch.zeros_like(error)
    for start in range(0, columns, size):
        span = slice(start, start + size)
        shares[:, span] = (error[:, span] @ hessian[span, span].double()) * error[:, span]
    return to_rows(shares, scheme).sum(dim=1)
