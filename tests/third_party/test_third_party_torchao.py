"""torchao's affine primitives, its weight-only configurations and float8 through QuantizerSuite."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from infopt_reference.quantization import Granularity, QuantizationScheme, preset
from infopt_suites.quantization import Grid, MakeQuantizer, QuantizerSuite, grid_of
from torch import Tensor, nn
from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    PerAxis,
    PerGroup,
    quantize_,
)
from torchao.quantization import quant_primitives as primitives

INTEGERS = {bits: getattr(torch, f"int{bits}") for bits in range(2, 9)}


def grouped(scale_dtype: torch.dtype, widths: Iterable[int]) -> list[QuantizationScheme]:
    """Both kinds of grid in groups of 32."""
    return [
        QuantizationScheme(
            bits, symmetric, Granularity.GROUP, group_size=32, scale_dtype=scale_dtype
        )
        for bits in widths
        for symmetric in (True, False)
    ]


def placed(scale_dtype: torch.dtype) -> list[QuantizationScheme]:
    """Both kinds of grid per tensor and per channel of either axis, in 4 bit."""
    return [
        QuantizationScheme(4, symmetric, *place, scale_dtype=scale_dtype)
        for symmetric in (True, False)
        for place in ((Granularity.TENSOR,), (Granularity.CHANNEL,), (Granularity.CHANNEL, -1))
    ]


def block_size(shape: torch.Size, scheme: QuantizationScheme) -> tuple[int, ...]:
    """What torchao calls the part of a tensor that shares a scale."""
    block = list(shape)
    if scheme.granularity is Granularity.CHANNEL:
        block[scheme.axis] = 1
    if scheme.granularity is Granularity.GROUP:
        block = [1] * len(shape)
        block[-1] = scheme.group_size
    return tuple(block)


@dataclass
class Affine:
    """Codes and constants of the primitives, with what decoding has to be told."""

    codes: Tensor
    block: tuple[int, ...]
    scale: Tensor
    zero_point: Tensor
    dtype: torch.dtype


class Primitives:
    """choose_qparams_affine, quantize_affine and dequantize_affine, with their defaults."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        self.scheme = scheme
        self.low, self.high = -(2 ** (scheme.bits - 1)), 2 ** (scheme.bits - 1) - 1
        # MappingType.SYMMETRIC spans −2^(b−1) … 2^(b−1) − 1 by half its length: at the positive
        # end half a step is cut off, which is the rounding error of all others.
        half = (2**scheme.bits - 1) / 2
        self.grid = Grid(
            steps=half if scheme.symmetric else 2 * half,
            smallest_scale=torch.finfo(scheme.scale_dtype).smallest_normal,  # ``eps``
            compute_dtype=scheme.scale_dtype,  # all is done in the weight's own dtype
        )

    def quantize(self, weight: Tensor) -> Affine:
        kind = primitives.MappingType
        mapping = kind.SYMMETRIC if self.scheme.symmetric else kind.ASYMMETRIC
        block = block_size(weight.shape, self.scheme)
        limits = {"quant_min": self.low, "quant_max": self.high}
        scale, zero_point = primitives.choose_qparams_affine(
            weight, mapping, block, torch.int8, **limits
        )
        codes = primitives.quantize_affine(weight, block, scale, zero_point, torch.int8, **limits)
        return Affine(codes, block, scale, zero_point, weight.dtype)

    def dequantize(self, quantized: Affine) -> Tensor:
        restored: Tensor = primitives.dequantize_affine(
            quantized.codes,
            quantized.block,
            quantized.scale,
            quantized.zero_point,
            torch.int8,
            self.low,
            self.high,
            output_dtype=quantized.dtype,
        )
        return restored

    def codes(self, quantized: Affine) -> Tensor:
        return quantized.codes

    def scales(self, quantized: Affine) -> Tensor:
        return quantized.scale


class OfPrimitives(QuantizerSuite):
    capabilities = frozenset({"codes", "scales"})  # weights must be contiguous: `Tensor.view`
    ranks = (2, 3)
    shortest_side = 2  # tests/findings/test_findings_torchao_scales_of_one_weight.py
    examples = 12

    @pytest.fixture
    def make_quantizer(self) -> type[Primitives]:
        return Primitives


@pytest.mark.slow
class TestPrimitivesInFloat32(OfPrimitives):
    schemes = (*grouped(torch.float32, [2, 3, 5, 8]), *placed(torch.float32))
    dtypes = (torch.float32,)


class TestPrimitivesInFloat16(OfPrimitives):
    schemes = grouped(torch.float16, [4])
    dtypes = (torch.float16,)


class TestPrimitivesInBfloat16(OfPrimitives):
    schemes = grouped(torch.bfloat16, [4])
    dtypes = (torch.bfloat16,)


# The properties that a row of zeros breaks when it comes back as NaN.
AT_ZEROS = (
    "test_error_is_within_the_bound_of_the_scheme",
    "test_zero_comes_back_as_exactly_zero",
    "test_finite_weights_come_back_finite",
    "test_decoded_weights_are_levels_of_the_code_book",
)


class WeightOnly:
    """`quantize_` on a linear layer: its weight becomes a tensor that knows its codes."""

    def __init__(self, config: Any, grid: Grid | None = None) -> None:
        self.config, self.grid = config, grid

    def quantize(self, weight: Tensor) -> Any:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
        layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
        quantize_(layer, self.config)
        return layer.weight

    def dequantize(self, quantized: Any) -> Tensor:
        restored: Tensor = quantized.dequantize()
        return restored

    def codes(self, quantized: Any) -> Tensor:
        codes: Tensor = quantized.qdata
        return codes

    def scales(self, quantized: Any) -> Tensor:
        scales: Tensor = quantized.scale
        return scales


def integer_weight_only(scheme: QuantizationScheme) -> WeightOnly:
    """IntxWeightOnlyConfig; its grid is that of the primitives."""
    mapping = primitives.MappingType
    granularity = PerAxis(0)
    if scheme.group_size is not None:
        granularity = PerGroup(scheme.group_size)
    config = IntxWeightOnlyConfig(
        weight_dtype=INTEGERS[scheme.bits],
        granularity=granularity,
        mapping_type=mapping.SYMMETRIC if scheme.symmetric else mapping.ASYMMETRIC,
    )
    return WeightOnly(config, Primitives(scheme).grid)


class TestIntxWeightOnly(QuantizerSuite):
    capabilities = frozenset({"codes", "scales"})
    schemes = (
        *grouped(torch.float32, [4]),
        *[QuantizationScheme(bits, granularity=Granularity.CHANNEL) for bits in (3, 8)],
    )
    dtypes = (torch.float32,)
    ranks = (2,)
    shortest_side = 2
    examples = 12

    @pytest.fixture
    def make_quantizer(self) -> MakeQuantizer:
        return integer_weight_only


# The grid of the primitives; eps is float32's in all dtypes.
INT8_GRID = Grid(steps=127.5, smallest_scale=torch.finfo(torch.float32).eps)


class OfInt8WeightOnly(QuantizerSuite):
    capabilities = frozenset({"codes", "scales"})
    ranks = (2,)
    shortest_side = 2
    examples = 12

    @pytest.fixture
    def make_quantizer(self) -> MakeQuantizer:
        return lambda scheme: WeightOnly(Int8WeightOnlyConfig(), INT8_GRID)


class TestInt8WeightOnly(OfInt8WeightOnly):
    schemes = (preset("int8"),)
    dtypes = (torch.float32,)


class TestInt8WeightOnlyInBfloat16(OfInt8WeightOnly):
    """Scales are kept in float32 and computed in the weight's dtype."""

    schemes = (preset("int8", scale_dtype=torch.bfloat16),)
    dtypes = (torch.bfloat16,)


class TestFloat8WeightOnly(QuantizerSuite):
    """The default, E4M3FN for each row."""

    expected_failures = dict.fromkeys(AT_ZEROS, "finding: a row of zeros becomes NaN")
    capabilities = frozenset({"scales"})
    schemes = (preset("fp8"),)
    ranks = (2,)
    shortest_side = 2
    examples = 12

    @pytest.fixture
    def make_quantizer(self) -> MakeQuantizer:
        return lambda scheme: WeightOnly(Float8WeightOnlyConfig())


class ZerosKept(WeightOnly):
    """With the finding repaired: what has the scale 0 is 0 again."""

    def dequantize(self, quantized: Any) -> Tensor:
        restored = super().dequantize(quantized).clone()
        restored[quantized.scale.flatten() == 0] = 0
        return restored


class TestFloat8WithZerosKept(QuantizerSuite):
    schemes = (preset("fp8"),)
    dtypes = (torch.float32,)  # scales are computed in the weight's dtype
    ranks = (2,)
    shortest_side = 2
    examples = 12

    @pytest.fixture
    def make_quantizer(self) -> MakeQuantizer:
        # A scale is off by half the smallest float32, 2^−149: 448 steps are off by half of what the
        # smallest half gap, 2^−10, is of the scale claimed here.
        grid = replace(grid_of(preset("fp8")), smallest_scale=448 * 2.0**-139)
        return lambda scheme: ZerosKept(Float8WeightOnlyConfig(), grid)
