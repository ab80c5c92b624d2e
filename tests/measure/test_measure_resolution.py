"""The resolution of values: sound ones of any scale and shape, and grids that are coarser."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_infopt.measure import resolution_of

FALSE_ALARMS = 1e-9
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
Grid = Callable[[torch.Tensor], torch.Tensor]


def drawn(seed: int, shape: str, scale: float) -> torch.Tensor:
    """Values [3, 40, 64] of a smooth distribution."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(3, 40, 64, generator=generator, dtype=torch.float64)
    shapes = {
        "normal": normal,
        "heavy tails": normal**3,
        "positive": normal.exp(),
        "an outlier channel": normal * (1 + 99 * (torch.arange(64) == 7)),
        "a bias": normal + 3,
    }
    return shapes[shape] * scale


SHAPES = st.sampled_from(["normal", "heavy tails", "positive", "an outlier channel", "a bias"])


@given(st.integers(0, 2**32), SHAPES, st.floats(1e-2, 1e2), st.sampled_from(DTYPES))
def test_rounding_to_the_format_itself_is_no_coarser_grid(
    seed: int, shape: str, scale: float, dtype: torch.dtype
) -> None:
    values = drawn(seed, shape, scale).to(dtype)
    for groups in (values, values.transpose(-1, -2)):
        assert not resolution_of(groups, dtype).coarser(FALSE_ALARMS)


def integers(bits: int, axes: tuple[int, ...]) -> Grid:
    def grid(values: torch.Tensor) -> torch.Tensor:
        scale = values.abs().amax(axes, keepdim=True) / (2 ** (bits - 1) - 1)
        return (values / scale).round() * scale

    return grid


def shifted_integers(values: torch.Tensor) -> torch.Tensor:
    """Eight bits between a token's smallest and largest."""
    low = values.amin(-1, keepdim=True)
    scale = (values.amax(-1, keepdim=True) - low) / 255
    return ((values - low) / scale).round() * scale + low


GRIDS: dict[str, Grid] = {
    "int8, a scale for a token": integers(8, (-1,)),
    "int8, a scale for a channel": integers(8, (-2,)),
    "int8, a scale for all": integers(8, (0, 1, 2)),
    "uint8, a scale and a zero point for a token": shifted_integers,
    "int4, a scale for a token": integers(4, (-1,)),
    "float8": lambda values: values.to(torch.float8_e4m3fn).to(values.dtype),
    "the older half in int8": lambda values: torch.cat(
        [integers(8, (-1,))(values[:, :20]), values[:, 20:]], 1
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", GRIDS)
@given(seed=st.integers(0, 2**32))
def test_a_coarser_grid_is_found(name: str, dtype: torch.dtype, seed: int) -> None:
    values = GRIDS[name](drawn(seed, "normal", 1.0)).to(dtype)
    found = [resolution_of(groups, dtype) for groups in (values, values.transpose(-1, -2))]
    assert any(each.coarser(FALSE_ALARMS) for each in found)
    assert min(each.bits for each in found) < 9


@given(st.integers(0, 2**32))
def test_bfloat16_in_float32_is_coarser(seed: int) -> None:
    values = drawn(seed, "normal", 1.0).bfloat16().float()
    assert resolution_of(values, torch.float32).coarser(FALSE_ALARMS)
    assert not resolution_of(values, torch.bfloat16).coarser(FALSE_ALARMS)


def test_zeros_and_few_values_say_nothing() -> None:
    assert not resolution_of(torch.zeros(3, 4, 64), torch.float32).coarser(FALSE_ALARMS)
    assert not resolution_of(torch.ones(1, 1, 2), torch.float32).coarser(FALSE_ALARMS)


@given(st.lists(st.integers(0, 40), min_size=2, max_size=12))
def test_pairs_are_counted_as_by_comparing_all(places: list[int]) -> None:
    """Against counting by pairs, of floats that are so many places above one."""
    values = 1 + torch.tensor(places, dtype=torch.float64) * torch.finfo(torch.float32).eps
    gaps = [abs(a - b) for i, a in enumerate(places) for b in places[:i]]
    found = resolution_of(values[None], torch.float32)
    assert (found.pairs, found.equal, found.neighbours) == (
        len(gaps),
        gaps.count(0),
        gaps.count(1),
    )
