"""RopeSuite accepts the reference's rotary embeddings, in each of their variants."""

from __future__ import annotations

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
