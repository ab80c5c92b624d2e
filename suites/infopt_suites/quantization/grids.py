"""From a scheme to bounds: which weights share a scale, and how far rounding may carry each.

Written apart from the reference's own bookkeeping (`infopt_reference.quantization.grouping`), so
that a fault there is not repeated here; only the levels of named code books are taken from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from infopt_reference.quantization import Granularity, QuantizationScheme, number_format
from torch import Tensor

_SLACK = 2**-40  # relative; this module's own float64 arithmetic


@dataclass(frozen=True)
class Grid:
    """How an implementation lays its levels over a group, where its scheme leaves a choice.

    Args:
        steps: scales that a group's absmax (symmetric) or range (asymmetric) spans.
        levels: the finite levels of a code book, in scales and ascending; None for equal steps.
        rounding_error: largest error of a weight, in scales, with equal steps. More than a half
            where the largest weights may be clipped.
        smallest_scale: scales are not made smaller than this, so that tiny groups lose precision.
        compute_dtype: the arithmetic between weight and code.
        scale_rounding: largest error of a doubly quantized scale, relative to the largest distance
            of any scale from the scales' mean.
        overhead_bytes: kept for each tensor beside codes, scales and zero points.
        zero_is_level: False where a group's smallest weight is kept in scale_dtype in place of a
            whole zero point: the range need not hold 0, and 0 comes back rounded.
        mirrored: False where −w need not become what w becomes, negated, as on −8…7 with the scale
            absmax/8. Grids that reach farther to one side by half a step are known by ``steps``.
        signed_scales: scales may be negative, as where the weight of largest magnitude is −8.
        idempotent: False where weights on levels may move when they are quantized again, as with
            a range that is nudged until it holds 0.
        scale_block: doubly quantized scales that share constants.
        scale_follows_weight: scales are stored in the weight's dtype, not in scale_dtype.
        scale_stretch: largest scale in ideal ones: 2 where scales are powers of two, rounded up.
    """

    steps: float
    levels: tuple[float, ...] | None = None
    rounding_error: float = 0.5
    smallest_scale: float = 0.0
    compute_dtype: torch.dtype = torch.float32
    scale_rounding: float = 1 / 254  # half a step of 127 to each side
    overhead_bytes: int = 0
    zero_is_level: bool = True
    mirrored: bool = True
    signed_scales: bool = False
    idempotent: bool = True
    scale_block: int = 256
    scale_follows_weight: bool = False
    scale_stretch: float = 1.0

    @property
    def has_zero(self) -> bool:
        """Whether every group can hold 0 exactly."""
        return self.zero_is_level and (self.levels is None or 0 in self.levels)

    @property
    def reach_of_both_sides(self) -> int:
        """How many equal steps both sides of 0 have: 7 of −8…7, whichever scale spreads them."""
        return math.floor(self.steps + 0.5 - self.rounding_error)


def grid_of(scheme: QuantizationScheme) -> Grid:
    """The grid that the scheme's definition gives (SPEC: absmax, zero-point, code books)."""
    if scheme.codebook is not None:
        levels = finite_levels(scheme)
        return Grid(steps=max(map(abs, levels)), levels=levels)
    if scheme.symmetric:
        return Grid(steps=2.0 ** (scheme.bits - 1) - 1)
    return Grid(steps=2.0**scheme.bits - 1)


def finite_levels(scheme: QuantizationScheme) -> tuple[float, ...]:
    """The finite levels of a named code book, in scales and ascending."""
    form = number_format(scheme)
    codes = torch.arange(2**scheme.bits, dtype=torch.uint8)[None]
    values = form.decode(codes, torch.ones(1, 1, dtype=torch.float64), None)
    return tuple(torch.unique(values[torch.isfinite(values)]).tolist())


def group_ids(shape: torch.Size, scheme: QuantizationScheme) -> Tensor:
    """For each weight the number of the group whose scale it shares: int64, of that shape."""
    if scheme.granularity is Granularity.TENSOR:
        return torch.zeros(shape, dtype=torch.int64)
    if scheme.granularity is Granularity.CHANNEL:
        along = [1] * len(shape)
        along[scheme.axis] = shape[scheme.axis]
        return torch.arange(shape[scheme.axis]).view(along).expand(shape).contiguous()
    assert scheme.group_size is not None
    groups_a_row = math.ceil(shape[-1] / scheme.group_size)
    rows = torch.arange(math.prod(shape[:-1])).view(*shape[:-1], 1)
    return rows * groups_a_row + torch.arange(shape[-1]) // scheme.group_size


@dataclass(frozen=True)
class Bounds:
    """What a sound quantizer may do to a weight. All float64, in the weight's shape."""

    grid: Grid
    scale: Tensor  # of each weight's group, before it is stored
    offset: Tensor  # the smallest weight of the group, where 0 is no level, else 0
    error: Tensor  # largest |weight − decoded weight|

    def derivation(self, index: tuple[int, ...]) -> str:
        """The bound of one weight in words."""
        scale, error = self.scale[index].item(), self.error[index].item()
        share = "half the gap between levels" if self.grid.levels else f"{self.grid.rounding_error}"
        return (
            f"at most {error:.6g}: {share} x scale {scale:.6g}, and the rounding of scale, "
            "arithmetic and output"
        )


def bounds(weight: Tensor, scheme: QuantizationScheme, grid: Grid) -> Bounds:
    """Bounds of `Bounds` for a weight of floating-point numbers, all finite.

    With s the ideal scale and d what storing it may change,
    |error| ≤ gap/2 · (s + d) + min(steps · d, gap/2 · (s + d)) + arithmetic + output rounding,
    where the second term is what a scale that was rounded down cuts off the ends: a sound
    implementation rounds up before that exceeds the rounding error itself.
    """
    values = weight.double()
    ids = group_ids(weight.shape, scheme)
    low, high = _extremes(values, ids, grid)
    scale = _ideal_scales(low, high, scheme, grid)
    stored = torch.finfo(scheme.scale_dtype)
    change = stored.eps / 2 * scale + stored.smallest_normal * stored.eps
    widest = scale.clamp(min=grid.smallest_scale) * grid.scale_stretch + change
    half_gap = _half_gap(values, scale, change, scheme, grid)
    cut_off = torch.minimum(grid.steps * change, half_gap * widest)
    if scheme.double_quantization:
        distance = (scale - _group_mean(scale, ids)).abs()
        lost = grid.scale_rounding * _reduced(distance, ids // grid.scale_block, "amax")
        widest, cut_off = widest + lost, grid.steps * (lost + change)
    computed = torch.finfo(grid.compute_dtype)
    # Adding a zero point or an offset rounds in proportion to the range, not to the weight.
    offset = torch.zeros_like(low) if grid.zero_is_level else low
    size = values.abs() if scheme.symmetric else grid.steps * scale + 2 * offset.abs()
    arithmetic = 4 * computed.eps * (size + widest) + computed.smallest_normal * computed.eps
    error = half_gap * widest + cut_off + arithmetic
    if not grid.zero_is_level:
        error = error + stored.eps / 2 * offset.abs() + stored.smallest_normal * stored.eps
    output = torch.finfo(weight.dtype)
    error = error + output.eps / 2 * (values.abs() + error) + output.smallest_normal * output.eps
    return Bounds(grid, scale, offset, error * (1 + _SLACK))


def near_tie(weight: Tensor, scheme: QuantizationScheme, grid: Grid) -> Tensor:
    """Weights so near the middle of two levels that rounding may send them to either. Bool."""
    extremes = _extremes(weight.double(), group_ids(weight.shape, scheme), grid)
    scale = _ideal_scales(*extremes, scheme, grid)
    steps = weight.double() / scale.where(scale > 0, 1.0)
    reach = 8 * torch.finfo(grid.compute_dtype).eps
    if grid.levels is None:
        return ((steps - steps.floor()) - 0.5).abs() <= reach * steps.abs()
    levels = torch.tensor(grid.levels, dtype=torch.float64)
    middles = (levels[1:] + levels[:-1]) / 2
    return ((steps[..., None] - middles).abs() <= reach * middles.abs()).any(-1)


def group_extremes(weight: Tensor, scheme: QuantizationScheme) -> tuple[Tensor, Tensor]:
    """Smallest and largest weight of each weight's group, 0 among them, in the weight's shape."""
    return _extremes(weight.double(), group_ids(weight.shape, scheme), grid_of(scheme))


def _extremes(values: Tensor, ids: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    low, high = _reduced(values, ids, "amin"), _reduced(values, ids, "amax")
    return (low.clamp(max=0), high.clamp(min=0)) if grid.zero_is_level else (low, high)


def _ideal_scales(low: Tensor, high: Tensor, scheme: QuantizationScheme, grid: Grid) -> Tensor:
    reach = torch.maximum(-low, high) if scheme.symmetric else high - low
    return reach / grid.steps


def _reduced(values: Tensor, ids: Tensor, how: str) -> Tensor:
    groups = int(ids.max()) + 1
    start = torch.zeros(groups, dtype=values.dtype)
    found = start.scatter_reduce(0, ids.reshape(-1), values.reshape(-1), how, include_self=False)
    return found[ids]


def _group_mean(scale: Tensor, ids: Tensor) -> Tensor:
    return _reduced(scale, ids, "amax").reshape(-1)[_first_of_each(ids)].mean()


def _first_of_each(ids: Tensor) -> Tensor:
    flat = ids.reshape(-1)
    first = torch.full((int(flat.max()) + 1,), flat.numel(), dtype=torch.int64)
    return first.scatter_reduce(0, flat, torch.arange(flat.numel()), "amin")


def _half_gap(
    values: Tensor, scale: Tensor, change: Tensor, scheme: QuantizationScheme, grid: Grid
) -> Tensor:
    """Half the distance of the two levels around each weight, in scales."""
    if grid.levels is None:
        return torch.full_like(values, grid.rounding_error)
    levels = torch.tensor(grid.levels, dtype=torch.float64)
    gaps = levels.diff()
    # A weight next to a level may, after rounding, lie on its other side.
    reach = 8 * torch.finfo(grid.compute_dtype).eps + torch.finfo(scheme.scale_dtype).eps
    steps = values / scale.where(scale > 0, 1.0)
    index = [
        torch.searchsorted(levels, steps * factor).clamp(1, len(levels) - 1) - 1
        for factor in (1 - reach, 1.0, 1 + reach)
    ]
    around = torch.stack([gaps[i] for i in index]).amax(0)
    # Where the stored scale is another one altogether, any gap may be the one.
    other = scheme.double_quantization or grid.scale_stretch > 1
    elsewhere = torch.full_like(scale, other) > 0
    elsewhere |= change > reach * scale
    return around.where(~elsewhere, gaps.max()) / 2
