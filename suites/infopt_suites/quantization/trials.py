"""Round trips of weights and what a scheme claims of them: what `QuantizerSuite` is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from infopt_reference.quantization import Granularity, QuantizationScheme
from torch import Tensor

from ..tally import note_kinds
from .grids import Bounds, Grid, grid_of, group_ids
from .protocol import MakeQuantizer, Quantizer
from .weights import WeightCase


class Trial:
    """One round trip, and what it was made with."""

    def __init__(self, make_quantizer: MakeQuantizer, case: WeightCase) -> None:
        self.make, self.case = make_quantizer, case
        self.weight = case.weight.clone()  # as it was given, whatever the quantizer does to it
        self.quantizer: Quantizer = make_quantizer(case.scheme)
        self.grid = claimed_grid(self.quantizer, case.scheme)
        self.scheme = case.scheme  # by which scales are stored
        if self.grid.scale_follows_weight:
            self.scheme = replace(case.scheme, scale_dtype=case.weight.dtype)
        self.quantized: Any = self.quantizer.quantize(case.weight)
        self.restored: Tensor = self.quantizer.dequantize(self.quantized)
        if not isinstance(self.restored, Tensor):
            raise TypeError(f"dequantize gave {type(self.restored).__name__} for a tensor")
        group = "" if case.scheme.group_size is None else str(case.scheme.group_size)
        note_kinds(dtypes=case.dtype, **{"group sizes": group or case.scheme.granularity.value})

    def of(self, weight: Tensor) -> Trial:
        """That of another weight in the same scheme, by a new quantizer."""
        return Trial(self.make, replace(self.case, weight=weight))


def claimed_grid(quantizer: object, scheme: QuantizationScheme) -> Grid:
    grid: Grid | None = getattr(quantizer, "grid", None)
    return grid_of(scheme) if grid is None else grid


def is_mirrored(
    make_quantizer: Callable[[QuantizationScheme], object], scheme: QuantizationScheme
) -> bool:
    grid = claimed_grid(make_quantizer(scheme), scheme)
    if not grid.mirrored:
        return False
    if grid.levels is None:
        return grid.steps == int(grid.steps)  # half a step more on one side: −8…7 over 7.5 steps
    return list(grid.levels) == [-level for level in reversed(grid.levels)]


def plainly_scaled(allowed: Bounds, scheme: QuantizationScheme) -> Tensor:
    """Groups whose constants are stored as normal numbers, and with room on both sides."""
    stored = torch.finfo(scheme.scale_dtype)
    scale, offset = allowed.scale, allowed.offset.abs()
    least = 16 * max(stored.smallest_normal, allowed.grid.smallest_scale)
    plain = (scale == 0) | ((scale >= least) & (scale <= stored.max / 16))
    return plain & ((offset == 0) | (offset >= 16 * stored.smallest_normal))


def claimed_bytes(trial: Trial) -> int:
    """Codes in whole bytes, a scale a group, a byte of zero point or a whole offset if any."""
    scheme, count, grid = trial.scheme, trial.weight.numel(), trial.grid
    groups = int(group_ids(trial.weight.shape, scheme).max()) + 1
    bits = scheme.bits if scheme.packed else 8
    scales = groups * scheme.scale_dtype.itemsize
    if scheme.double_quantization:
        scales = groups + 4 * math.ceil(groups / grid.scale_block) + 4
    offset = 1 if grid.zero_is_level else scheme.scale_dtype.itemsize
    offsets = 0 if scheme.symmetric else groups * offset
    return -(-count * bits // 8) + scales + offsets + grid.overhead_bytes


def nearest_levels(weight: Tensor, allowed: Bounds) -> Tensor:
    """The level of the code book that is nearest to each weight, float64."""
    if allowed.grid.levels is None:
        return weight
    levels = torch.tensor(allowed.grid.levels, dtype=torch.float64)
    steps = weight / allowed.scale.where(allowed.scale > 0, 1.0)
    return levels[(steps[..., None] - levels).abs().argmin(-1)] * allowed.scale


def kept_bytes(state: Mapping[str, Tensor]) -> tuple[int, str]:
    """Bytes of all storages, shared ones once, and in words those of each tensor."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state.values()
    }
    words = []
    for name, tensor in state.items():
        held, own = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.itemsize
        words.append(f"{name}: {own}" + (f" (a view of {held})" if held > own else ""))
    return sum(storages.values()), ", ".join(words)


def scheme_families(
    schemes: Iterable[QuantizationScheme],
    order: Callable[[QuantizationScheme], float],
    **ignored: Any,
) -> Iterator[list[QuantizationScheme]]:
    """Two schemes and more that differ in nothing but the ignored fields, coarsest first."""
    families: dict[QuantizationScheme, dict[float, QuantizationScheme]] = {}
    for scheme in schemes:
        if "codebook" in ignored and scheme.codebook is not None:
            continue
        families.setdefault(replace(scheme, **ignored), {})[order(scheme)] = scheme
    for family in families.values():
        if len(family) > 1:
            yield [family[key] for key in sorted(family)]


def singly_scaled(scheme: QuantizationScheme) -> bool:
    """Double quantization joins all groups of a tensor through the mean of their scales."""
    return not scheme.double_quantization


def fineness(scheme: QuantizationScheme) -> float:
    """Finer schemes have larger numbers."""
    if scheme.granularity is Granularity.TENSOR:
        return -math.inf
    if scheme.granularity is Granularity.CHANNEL:
        return -1e9
    return -float(scheme.group_size or 1)


def require_same(found: Tensor, expected: Tensor, excused: Tensor | None = None) -> None:
    """Raise AssertionError with the first place where tensors differ, ``excused`` ones apart.

    A NaN is the same as a NaN: that there is one is for another property to say.
    """
    assert found.shape == expected.shape, f"shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    differs = (found != expected) & ~(found.isnan() & expected.isnan())
    if excused is not None:
        differs &= ~excused
    if bool(differs.any()):
        place = tuple(int(index) for index in differs.nonzero()[0])
        raise AssertionError(
            f"{int(differs.sum())} of {differs.numel()} weights differ; {list(place)} is "
            f"{found[place].item():.9g}, not {expected[place].item():.9g}"
        )


def require_near(found: Tensor, expected: Tensor, eps: float, excused: Tensor) -> None:
    """Raise AssertionError where tensors differ by more than ``eps`` of the largest number."""
    allowed = eps * expected.double().nan_to_num(0.0, 0.0, 0.0).abs().max()
    away = (found.double() - expected.double()).abs()
    require_same(found.where(~(away <= allowed), expected), expected, excused)


def require_within(weight: Tensor, restored: Tensor, allowed: Bounds, what: str) -> None:
    """Raise AssertionError where a number came back outside its bound; ``what`` names it."""
    error = (weight.double() - restored.double()).abs()
    excess = error - allowed.error
    # A NaN is in no bound, and compares with none.
    if not bool((excess <= 0).all()):
        where = worst_place(excess)
        raise AssertionError(
            f"{what}{list(where)} = {weight[where].item():.9g} came back as "
            f"{restored[where].item():.9g}: off by {error[where].item():.6g}, "
            f"{allowed.derivation(where)}"
        )


def worst_place(excess: Tensor) -> tuple[int, ...]:
    """Where the excess is largest, a NaN being larger than anything."""
    flat = excess.nan_to_num(nan=math.inf).argmax()
    return tuple(int(index) for index in torch.unravel_index(flat, excess.shape))
