"""Weights to try quantizers on: what Hypothesis draws, and traps that real libraries fell into."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import hypothesis.strategies as st
import torch
from hypothesis.strategies import SearchStrategy
from infopt_reference.quantization import Granularity, QuantizationScheme
from torch import Tensor

from .grids import Grid, grid_of

LARGEST_BLOCK = 4096  # groups beyond this size are not tried
LONG = 1024  # columns; chunks of kernels are this long, or shorter
_SHOWN = 32  # numbers of a weight's beginning and of its end that a message has room for


@dataclass(frozen=True)
class WeightCase:
    """A weight, or what ``noun`` says, and the scheme to quantize it in."""

    scheme: QuantizationScheme
    weight: Tensor
    noun: str = "weight"

    @property
    def dtype(self) -> str:
        """The weight's, in words."""
        return str(self.weight.dtype).removeprefix("torch.")

    @property
    def kind(self) -> str:
        """The case without its numbers."""
        return f"{self.dtype} {self.noun} of shape {tuple(self.weight.shape)}, {self.scheme}"

    def __repr__(self) -> str:
        return f"{self.kind}: {_shown(self.weight)}"


def _shown(weight: Tensor) -> str:
    """All numbers of a small weight, the ends of a large one."""
    if weight.numel() <= 2 * _SHOWN:
        return str(weight.tolist())
    first, last = weight.reshape(-1)[:_SHOWN].tolist(), weight.reshape(-1)[-_SHOWN:].tolist()
    return f"{str(first)[:-1]}, …, {str(last)[1:]}"


@dataclass(frozen=True)
class Accepted:
    """Which weights an implementation takes: dtypes, ranks, groups cut short, shortest sides."""

    dtypes: Sequence[torch.dtype]
    ranks: Collection[int]
    ragged: bool
    shortest_side: int = 1


def weight_cases(
    schemes: Sequence[QuantizationScheme], accepted: Accepted, dtype: torch.dtype | None = None
) -> SearchStrategy[WeightCase]:
    """Weights of every kind, small first: they shrink to few rows, round numbers and zeros."""

    @st.composite
    def draw_case(draw: st.DrawFn) -> WeightCase:
        scheme = draw(st.sampled_from(list(schemes)))
        shape = draw(_shapes(scheme, accepted))
        kind = draw(st.sampled_from(list(_KINDS)))
        weight = _KINDS[kind](shape, draw(st.integers(0, 2**16)))
        chosen = dtype or draw(st.sampled_from(list(accepted.dtypes)))
        edits = draw(st.dictionaries(st.integers(0, weight.numel() - 1), _NUMBERS, max_size=6))
        for index, number in edits.items():
            weight.view(-1)[index] = number
        return WeightCase(scheme, _representable(weight, chosen, scheme))

    return draw_case()


def one_of_each(schemes: Sequence[QuantizationScheme], accepted: Accepted) -> Iterator[WeightCase]:
    """A plain weight of each scheme, of each dtype and of each rank."""
    first, dtype = schemes[0], accepted.dtypes[0]
    plain = {scheme: _plainest_rank(scheme, accepted) for scheme in schemes}
    kinds = [(scheme, dtype, rank) for scheme, rank in plain.items()]
    kinds += [(first, other, plain[first]) for other in accepted.dtypes]
    kinds += [(first, dtype, rank) for rank in _possible_ranks(first, accepted)]
    for scheme, kind, rank in dict.fromkeys(kinds):
        grouped = scheme.granularity is Granularity.GROUP
        columns = row_lengths(scheme, ragged=False)[0] if grouped else 8
        side = max(accepted.shortest_side, 2)
        shape = (*[side] * (rank - 1), max(columns, accepted.shortest_side))
        yield WeightCase(scheme, _normal(shape, 0).to(kind))


def _plainest_rank(scheme: QuantizationScheme, accepted: Accepted) -> int:
    ranks = _possible_ranks(scheme, accepted)
    return 2 if 2 in ranks else ranks[0]


def _possible_ranks(scheme: QuantizationScheme, accepted: Accepted) -> list[int]:
    """Those that have the axis of the scheme's channels."""
    least = 1
    if scheme.granularity is Granularity.CHANNEL:
        least = scheme.axis + 1 if scheme.axis >= 0 else -scheme.axis
    return [rank for rank in accepted.ranks if rank >= least]


# Round numbers first, so that counterexamples shrink to them. None is so small that a float32 scale
# would be subnormal: what arithmetic does there is no property of a quantizer.
_NUMBERS = st.one_of(
    st.integers(-16, 16).map(float),
    st.floats(-1024, 1024, width=32).map(lambda x: x if abs(x) > 2.0**-60 else 0.0),
    st.integers(-(2**12), 2**12).map(lambda n: n * 2.0**-32),
)


def _shapes(scheme: QuantizationScheme, accepted: Accepted) -> SearchStrategy[tuple[int, ...]]:
    ranks = _possible_ranks(scheme, accepted)
    sides, last = st.integers(accepted.shortest_side, 4), st.integers(accepted.shortest_side, 9)
    if scheme.granularity is Granularity.GROUP:
        last = st.sampled_from(row_lengths(scheme, accepted.ragged))
    return st.sampled_from(ranks).flatmap(lambda rank: st.tuples(*[sides] * (rank - 1), last))


def row_lengths(scheme: QuantizationScheme, ragged: bool) -> list[int]:
    """Lengths of a row in groups: whole groups, and (where allowed) every way to miss them."""
    size = scheme.group_size or 1
    if size > LARGEST_BLOCK:
        raise ValueError(f"group_size is {size}; suites try groups up to {LARGEST_BLOCK}")
    whole = [size, 2 * size, 3 * size] if size <= 128 else [size]
    if not ragged:
        return whole
    short = [1, size - 1, size + 1, 2 * size - 1, 2 * size + 3]
    return sorted({length for length in [*whole, *short] if 1 <= length <= max(whole) + 3})


def _representable(weight: Tensor, dtype: torch.dtype, scheme: QuantizationScheme) -> Tensor:
    """The weight in a dtype, clamped to numbers that leave room in it and in the scales' dtype."""
    limit = min(torch.finfo(dtype).max, torch.finfo(scheme.scale_dtype).max) / 16
    return weight.clamp(-limit, limit).to(dtype)


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _by_rows(weight: Tensor, factors: Sequence[float]) -> Tensor:
    rows = weight.view(-1, weight.shape[-1])
    rows *= torch.tensor(factors, dtype=weight.dtype).repeat(len(rows))[: len(rows), None]
    return weight


_KINDS: dict[str, Callable[[tuple[int, ...], int], Tensor]] = {
    "zeros": lambda shape, seed: torch.zeros(shape, dtype=torch.float64),
    "constant": lambda shape, seed: torch.full(shape, (seed % 33 - 16) / 2, dtype=torch.float64),
    "integers": lambda shape, seed: (_normal(shape, seed) * 8).round(),
    "normal": _normal,
    "positive": lambda shape, seed: _normal(shape, seed).abs() + seed % 3,
    "negative": lambda shape, seed: -_normal(shape, seed).abs() - seed % 3,
    "tiny": lambda shape, seed: _normal(shape, seed) * 2.0**-20,
    "huge": lambda shape, seed: _normal(shape, seed) * 2.0**14,
    "rows of all sizes": lambda shape, seed: _by_rows(_normal(shape, seed), [1.0, 1e-4, 1e3, 0.0]),
}


def weight_traps(
    scheme: QuantizationScheme,
    accepted: Accepted,
    grid: Grid | None = None,
    *,
    subnormal_scales: bool = False,
) -> Iterator[tuple[str, WeightCase]]:
    """Named weights that some library once got wrong, made to fit the scheme.

    Each comes in the first of the accepted dtypes, those about narrow dtypes in all of them.
    ``subnormal_scales``: also weights so small that a scale of float32 is subnormal, or 0.
    """
    rank = min((r for r in accepted.ranks if r >= 2), default=1)
    columns = _trap_columns(scheme, accepted)
    rows = 1 if rank == 1 else columns if columns <= 64 else 3  # squares hide a mix-up of axes
    shape = (*[1] * (rank - 2), rows, columns)[-rank:]
    ramp = torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).view(shape)
    grid = grid or grid_of(scheme)
    steps = grid.steps
    ends = _with_ends(ramp, steps)
    first = accepted.dtypes[0]
    for name, weight in {
        "all zero": torch.zeros(shape, dtype=torch.float64),
        "negative zero": -torch.zeros(shape, dtype=torch.float64),
        "one group of zeros": _first_group_zero(_normal(shape, 1), scheme),
        "constant": torch.full(shape, 0.8315, dtype=torch.float64),
        "negative constant": torch.full(shape, -3.0, dtype=torch.float64),
        "all positive, far from 0": 15 + 7 * (ramp + 1) / 2,
        "all negative, far from 0": -22 + 7 * (ramp + 1) / 2,
        "uniform in 0…1": (ramp + 1) / 2,
        "one and two": 1 + (torch.arange(ramp.numel()) % 2).double().view(shape),
        "from −1 to 1": ramp,
        "quarters and halves of steps": ends,
        "zero point next to an integer": _zero_point_ramp(ramp, steps),
        "alternating signs": ramp.abs() * (-1.0) ** torch.arange(ramp.numel()).view(shape),
        "one row a thousand times larger": _by_rows(_normal(shape, 2), [1000.0] + [1.0] * 63),
        "the tail tiny": _tail_scaled(_normal(shape, 3), scheme, 1e-4),
        "the tail large": _tail_scaled(_normal(shape, 4), scheme, 1e4),
        "one outlier": _outlier(_normal(shape, 5)),
        "powers of two": 2.0 ** (torch.arange(ramp.numel()) % 24 - 12).double().view(shape),
        "large numbers": _normal(shape, 6) * 2.0**20,
    }.items():
        yield name, WeightCase(scheme, _representable(weight, first, scheme))
    yield "a row longer than any chunk", WeightCase(scheme, _long(scheme, rank).to(first))
    if scheme.double_quantization:
        for name, weight in _scale_blocks(scheme, grid, rank):
            yield name, WeightCase(scheme, _representable(weight, first, scheme))
    for dtype in accepted.dtypes:
        beside = _by_rows(_normal(shape, 7), [1.0, 1e-6])
        yield f"a tiny row beside a row of ones, {dtype}", WeightCase(scheme, beside.to(dtype))
        if dtype is torch.float16 or subnormal_scales:
            least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
            denormal = (ramp * 20).round() * least
            yield f"subnormal numbers, {dtype}", WeightCase(scheme, denormal.to(dtype))


def _long(scheme: QuantizationScheme, rank: int) -> Tensor:
    """More than 1,024 columns, in whole groups, growing along the row."""
    size = scheme.group_size or 1
    columns = math.ceil((LONG + 1) / size) * size
    rows = 2 if rank > 1 else 1
    weight = _normal((*[1] * (rank - 2), rows, columns)[-rank:], 8)
    return weight * torch.linspace(1, 8, columns, dtype=torch.float64)


def _scale_blocks(
    scheme: QuantizationScheme, grid: Grid, rank: int
) -> Iterator[tuple[str, Tensor]]:
    """More groups than share second-level constants, in two blocks whose scales vary otherwise."""
    size, first = scheme.group_size or 1, grid.scale_block
    groups = first + first // 6
    even, spread = torch.ones(groups), torch.linspace(0, 2, groups)
    rows = math.gcd(groups, 2) if rank > 1 else 1
    shape = (*[1] * (rank - 2), rows, groups * size // rows)[-rank:]
    for name, factors in {
        "scales that vary in the first block alone": torch.cat([spread[:first], even[first:]]),
        "scales that vary in the last block alone": torch.cat([even[:first], 4 * spread[first:]]),
    }.items():
        weight = _normal((groups, size), 9).clamp(-2, 2)
        weight[:, 0] = 2
        yield name, (weight * factors[:, None].double()).view(shape)


def _trap_columns(scheme: QuantizationScheme, accepted: Accepted) -> int:
    if scheme.granularity is not Granularity.GROUP:
        return 33
    assert scheme.group_size is not None
    size = scheme.group_size
    whole = size if size > 256 else 2 * size
    return whole + max(1, min(size // 3, 40)) if accepted.ragged and size > 1 else whole


def _with_ends(ramp: Tensor, steps: float) -> Tensor:
    """Multiples of a quarter of a step, each group's absmax the same, ends included."""
    weight = (ramp * steps * 4).round() / 4
    weight[..., ::7], weight[..., 3::7] = -steps, steps
    return weight


def _zero_point_ramp(ramp: Tensor, steps: float) -> Tensor:
    """Ranges whose −low/scale falls just below an integer in floating point."""
    weight = ramp.clone()
    low, high = -0.1 * (steps // 2), 0.1 * (steps - steps // 2)
    weight[...] = (ramp + 1) / 2 * (high - low) + low
    weight[..., ::5], weight[..., 2::5] = low, high
    return weight


def _first_group_zero(weight: Tensor, scheme: QuantizationScheme) -> Tensor:
    if scheme.granularity is Granularity.CHANNEL:
        weight.select(scheme.axis, 0).zero_()
    else:
        weight.view(-1)[: scheme.group_size or weight.shape[-1]] = 0
    return weight


def _tail_scaled(weight: Tensor, scheme: QuantizationScheme, factor: float) -> Tensor:
    size = scheme.group_size or weight.shape[-1]
    tail = weight.shape[-1] % size or size
    weight[..., -tail:] *= factor
    return weight


def _outlier(weight: Tensor) -> Tensor:
    weight.view(-1)[weight.numel() // 2] = 100.0
    return weight


def strided_views(weight: Tensor) -> Iterator[Tensor]:
    """The same numbers behind other strides: transposed, every other one, part of each row."""
    yield weight.transpose(0, -1).contiguous().transpose(0, -1)
    yield torch.stack([weight, weight + 1], dim=-1)[..., 0]
    yield torch.cat([weight, weight + 1], dim=-1)[..., : weight.shape[-1]]


def evenly_spread(scheme: QuantizationScheme, accepted: Accepted) -> Tensor:
    """About 4,096 weights, uniform between the ends of a range that each group reaches.

    The range is one whose zero point is a whole number: rounding it moves all weights one way.
    """
    columns = max(row_lengths(scheme, ragged=False)) if scheme.group_size else 64
    rows = math.ceil(4096 / columns)
    steps = 2**scheme.bits - 1
    low, high = (-1.0, 1.0) if scheme.symmetric else (-(steps // 3) / steps, 1 - steps // 3 / steps)
    generator = torch.Generator().manual_seed(1)
    weight = torch.rand(rows, columns, generator=generator, dtype=torch.float64)
    weight = weight * (high - low) + low
    size = scheme.group_size or columns
    weight[:, ::size], weight[:, size - 1 :: size] = low, high
    if scheme.granularity is Granularity.CHANNEL and scheme.axis not in (0, -2):
        weight = weight.T.contiguous()
    return weight if 2 in accepted.ranks else weight.view(-1)
