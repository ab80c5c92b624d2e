"""Where in a document, and when in a session, quality is lost."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from infopt_suites.gates.quality.limits import POSITION_RATIO, TREND
from infopt_suites.gates.quality.profile import (
    OF_EACH_LENGTH,
    missing_lengths,
    position_parts,
    profile,
)

from pytest_infopt import Sample

Curve = Callable[[random.Random, int], float]


def documents(
    curve: Curve, count: int = 24, lengths: tuple[int, ...] = (63,), seed: int = 0
) -> list[Sample]:
    draw = random.Random(seed)
    samples = []
    for index in range(count):
        kl = [curve(draw, position) for position in range(lengths[index % len(lengths)])]
        values = {"kl_mean": math.fsum(kl) / len(kl)}
        samples.append(Sample(f"d{index}", len(kl), values, tokens={"kl": kl}))
    return samples


def heavy_tailed(draw: random.Random, position: int) -> float:
    """More at a document's beginning, and a few tokens lose a hundred times what most do."""
    return 1e-3 * draw.paretovariate(1.2) * (1 + 3 / (position + 1))


@pytest.mark.parametrize("seed", range(40))
def test_heavy_tails_and_a_hard_beginning_are_no_fault(seed: int) -> None:
    found = profile(documents(heavy_tailed, seed=seed, lengths=(63, 17, 40))).values
    assert found["kl_position_ratio"] < POSITION_RATIO
    assert found["kl_trend"] < TREND


@pytest.mark.parametrize("start", [0, 1, 17, 32, 47, 60, 62])
@pytest.mark.parametrize("factor", [30.0, math.inf])
def test_what_is_wrong_at_a_few_positions_is_far_beyond(start: int, factor: float) -> None:
    def wrong(draw: random.Random, position: int) -> float:
        value = draw.uniform(0.5e-3, 1.5e-3)
        return value * factor if start <= position < start + 3 else value

    found = position_parts(documents(wrong))
    worst = max(found, key=lambda part: part.ratio)
    assert worst.ratio > POSITION_RATIO
    assert worst.start <= start + 2
    assert start < worst.stop


def test_positions_that_only_long_documents_reach_have_parts_of_their_own() -> None:
    def wrong_from_100(draw: random.Random, position: int) -> float:
        return heavy_tailed(draw, position) * (1 if position < 100 else 50)

    found = position_parts(documents(wrong_from_100, lengths=(60, 60, 60, 60, 60, 120)))
    assert next(part.start for part in found if part.ratio > POSITION_RATIO) in (96, 104)
    assert found[0].documents == 24
    assert found[-1].documents == 4


@given(st.integers(1, 300), st.integers(1, 40))
def test_the_parts_cover_every_position_once(tokens: int, count: int) -> None:
    parts = position_parts(documents(heavy_tailed, count, (tokens,)))
    covered = [place for part in parts for place in range(part.start, part.stop)]
    assert covered == (list(range(tokens)) if parts else [])
    assert bool(parts) == (tokens > 4)


def test_equal_models_have_no_profile() -> None:
    found = profile(documents(lambda draw, position: 0.0))
    assert found.values == {"kl_position_ratio": 1.0, "kl_trend": 1.0}


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=60), st.integers(0, 60))
def test_every_octave_of_lengths_gets_its_documents(tokens: list[int], seen: int) -> None:
    lengths = {f"d{index}": count for index, count in enumerate(tokens)}
    measured = list(lengths)[:seen]
    more = missing_lengths(lengths, measured)
    assert not set(more) & set(measured)
    assert more == [name for name in lengths if name in more]
    for octave in {count.bit_length() for count in tokens}:
        all_of_it = [name for name, count in lengths.items() if count.bit_length() == octave]
        looked_at = [name for name in all_of_it if name in {*measured, *more}]
        assert len(looked_at) >= min(OF_EACH_LENGTH, len(all_of_it))
