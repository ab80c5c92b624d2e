"""RopeSuite accepts the reference's rotary embeddings, in each of their variants."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from infopt_reference.attention import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ProportionalScaling,
    Rope,
    Sections,
    Unscaled,
    YarnScaling,
)
from infopt_reference.attention.rope_scaling import RopeScaling
from infopt_suites.attention import RopeSpec, RopeSuite
from infopt_suites.attention.rope_protocol import (
    Dynamic,
    Linear,
    Llama3,
    LongRope,
    Proportional,
    Scaling,
    Yarn,
)
from torch import Tensor


def scaling_of(scaling: Scaling | None, length: int) -> RopeScaling:
    """The reference's scaling, for sequences of up to ``length`` tokens."""
    match scaling:
        case Linear(factor):
            return LinearScaling(factor)
        case Dynamic(factor, trained):
            return DynamicScaling(factor, trained, length)
        case Yarn(factor, trained, fast, slow, truncate, own):
            return YarnScaling(factor, trained, fast, slow, truncate, own)
        case Llama3(factor, trained, low, high):
            return Llama3Scaling(factor, trained, low, high)
        case LongRope(short, long, factor, trained):
            return LongRopeScaling(short, long, factor, trained, length)
        case Proportional(share, factor):
            return ProportionalScaling(share, factor)
    return Unscaled()


class Reference:
    """`Rope` as the suites' protocol."""

    def __init__(self, spec: RopeSpec) -> None:
        sections = None if spec.sections is None else Sections(spec.sections, spec.interleaved)
        self.rope = Rope(
            spec.head_dim,
            spec.base,
            scaling_of(spec.scaling, spec.length),
            spec.pairing,
            spec.rotary_dim,
            sections,
        )

    def rotate(self, queries: Tensor, keys: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.rope.rotate(queries, positions), self.rope.rotate(keys, positions)

    def shift(self, keys: Tensor, distance: Tensor) -> Tensor:
        return self.rope.shift(keys, distance)


class TestReference(RopeSuite):
    capabilities = frozenset(RopeSuite.offers)

    @pytest.fixture
    def make_rope(self) -> type[Reference]:
        return Reference


class TestReferenceInDoublePrecision(RopeSuite):
    capabilities = frozenset(RopeSuite.offers)
    dtype = angle_dtype = torch.float64
    low_precision = (torch.float32,)
    examples = 10

    @pytest.fixture
    def make_rope(self) -> Any:
        return Reference


class Llama31:
    """The bands of Llama 3.1 with its constants written in, in complex numbers."""

    def __init__(self, spec: RopeSpec) -> None:
        self.frequencies = [
            self.scaled(spec.base ** (-2 * pair / spec.head_dim))
            for pair in range(spec.head_dim // 2)
        ]

    def scaled(self, frequency: float) -> float:
        wavelength = 2 * math.pi / frequency
        if wavelength < 8192 / 4:
            return frequency
        if wavelength > 8192:
            return frequency / 8
        kept = (8192 / wavelength - 1) / 3
        return (1 - kept) * frequency / 8 + kept * frequency

    def rotate(self, queries: Tensor, keys: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions[:, None, :, None] * torch.tensor(self.frequencies, dtype=torch.float64)
        turns = torch.polar(torch.ones_like(angles), angles)
        return self.turned(queries, turns), self.turned(keys, turns)

    def turned(self, heads: Tensor, turns: Tensor) -> Tensor:
        pairs = torch.complex(heads[..., 0::2].double(), heads[..., 1::2].double())
        return torch.view_as_real(pairs * turns).flatten(-2).to(heads.dtype)


class TestConstantsOfItsOwn(RopeSuite):
    capabilities = frozenset({"llama3", "neighbours"})
    scalings = {"llama3": Llama3(8.0, 8192)}  # noqa: RUF012  # read only

    @pytest.fixture
    def make_rope(self) -> type[Llama31]:
        return Llama31
