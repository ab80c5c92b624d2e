"""optimum-quanto's weights in 8, 4 and 2 bit and in float8 through QuantizerSuite."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from infopt_reference.quantization import Granularity, QuantizationScheme, preset
from infopt_suites.quantization import Grid, MakeQuantizer, QuantizerSuite, grid_of
from optimum.quanto import (
    AbsmaxOptimizer,
    MaxOptimizer,
    qfloat8,
    qint2,
    qint4,
    qint8,
    quantize_weight,
)
from torch import Tensor

# The properties that a group of zeros breaks when it comes back as NaN.
AT_ZEROS = (
    "test_error_is_within_the_bound_of_the_scheme",
    "test_zero_comes_back_as_exactly_zero",
    "test_finite_weights_come_back_finite",
    "test_decoded_weights_are_levels_of_the_code_book",
)


# A scale is off by half the smallest float32, 2^−149: 448 steps are off by half of what the
# smallest half gap, 2^−10, is of the scale claimed here.
FLOAT8_GRID = replace(grid_of(preset("fp8")), smallest_scale=448 * 2.0**-139)


class Rows:
    """`quantize_weight` with a scale for each row, the way `QModuleMixin` calls it."""

    def __init__(self, qtype: Any, grid: Grid | None = None) -> None:
        self.qtype, self.grid = qtype, grid

    def quantize(self, weight: Tensor) -> Any:
        scale = AbsmaxOptimizer()(weight, self.qtype, axis=0)
        return quantize_weight(weight, qtype=self.qtype, axis=0, scale=scale, optimized=False)

    def dequantize(self, quantized: Any) -> Tensor:
        restored: Tensor = quantized.dequantize()
        return restored

    def codes(self, quantized: Any) -> Tensor:
        codes: Tensor = quantized._data
        return codes

    def scales(self, quantized: Any) -> Tensor:
        scales: Tensor = quantized._scale
        return scales


class TestInt8(QuantizerSuite):
    capabilities = frozenset({"codes", "scales", "strided"})
    schemes = (preset("int8"),)
    dtypes = (torch.float32,)
    ranks = (2, 3)
    shortest_side = 2  # one row is quantized as a tensor, with a scale of no dimension
    examples = 20

    @pytest.fixture
    def make_quantizer(self) -> MakeQuantizer:
        # Scales are float32, whose spacing is 2^−149 at its smallest: the outermost weight is
        # off by 127 / 2 times that, half of what is claimed.
        return lambda scheme: Rows(qint8, Grid(steps=127.0, smallest_scale=127 * 2.0**-149))


class TestFloat8(QuantizerSuite):
    capabilities = frozenset({"scales", "strided"})
    schemes = (preset("fp8"),)
    dtypes = (torch.float32,)
    ranks = (2, 3)
    shortest_side = 2
    examples = 20
    expected_failures = dict.fromkeys(AT_ZEROS, "finding: a row of zeros becomes NaN")

    @pytest.fixture
    def make_quantizer(self) -> MakeQuantizer:
        return lambda scheme: Rows(qfloat8)


class ZerosKept(Rows):
    """With the finding repaired: what has the scale 0 is 0 again."""

    def dequantize(self, quantized: Any) -> Tensor:
        restored = super().dequantize(quantized).clone()
        restored[quantized._scale.flatten() == 0] = 0
        return restored


class TestFloat8WithZerosKept(QuantizerSuite):
    capabilities = frozenset({"strided"})
    schemes = (preset("fp8"),)
    dtypes = (torch.float32,)
    ranks = (2, 3)
    shortest_side = 2
    examples = 20

    @pytest.fixture
    def make_quantizer(self) -> MakeQuantizer:
        return lambda scheme: ZerosKept(qfloat8, FLOAT8_GRID)


SINGLE_GROUP = "finding: a weight of a single group gets a scale for each column"


class Groups:
    """`quantize_weight` in groups; ``zeropoint`` asks for 0 to be a level."""

    def __init__(self, scheme: QuantizationScheme, zeropoint: bool) -> None:
        self.scheme, self.zeropoint = scheme, zeropoint
        self.qtype = {2: qint2, 4: qint4}[scheme.bits]
        self.grid = Grid(steps=2.0**scheme.bits - 1, zero_is_level=zeropoint)

    def quantize(self, weight: Tensor) -> Any:
        size = self.scheme.group_size
        scale, shift = MaxOptimizer()(weight, self.qtype, 0, size, self.zeropoint)
        return quantize_weight(weight, self.qtype, 0, scale, shift, size, optimized=False)

    def dequantize(self, quantized: Any) -> Tensor:
        restored: Tensor = quantized.dequantize()
        return restored

    def scales(self, quantized: Any) -> Tensor:
        scales: Tensor = quantized._scale
        return scales


class OfGroups(QuantizerSuite):
    capabilities = frozenset({"scales", "strided"})
    schemes = tuple(
        QuantizationScheme(bits, False, Granularity.GROUP, group_size=32) for bits in (2, 4)
    )
    dtypes = (torch.float32,)
    ranks = (2, 3)
    shortest_side = 2  # a weight of two groups or more
    examples = 20


class TestGroupsWithFloatShift(OfGroups):
    """The default: the smallest weight of a group is a level, 0 is one by chance."""

    expected_failures = {  # noqa: RUF012  # read only
        "test_each_group_is_what_it_is_alone": SINGLE_GROUP
    }

    @pytest.fixture
    def make_quantizer(self) -> MakeQuantizer:
        return lambda scheme: Groups(scheme, zeropoint=False)


class TestGroupsWithZeroPoint(OfGroups):
    expected_failures = {  # noqa: RUF012  # read only
        "test_each_group_is_what_it_is_alone": SINGLE_GROUP,
        "test_error_is_within_the_bound_of_the_scheme": "finding: one-sided groups are cut to 0",
    }

    @pytest.fixture
    def make_quantizer(self) -> MakeQuantizer:
        return lambda scheme: Groups(scheme, zeropoint=True)
