"""hqq's quantizer, without and with its optimizer, and its packing through the suites."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from infopt_reference.quantization import Granularity, QuantizationScheme
from infopt_suites.quantization import Grid, MakeQuantizer, PackingSuite, QuantizerSuite
from torch import Tensor

hqq = pytest.importorskip("hqq.core.quantize", reason="hqq has to be built: make peers")

# Groups that span 1e-4 or less get the scale 1, at which they all come back as their smallest
# weight: off by 1e-4, half of what is claimed. Scales of 1/2e4 and less are raised to that.
SMALLEST_SCALE = 2e-4
CONSTANT_GROUPS = "finding: constant groups become integers"


class Groups:
    """`Quantizer.quantize` along rows; packing has a suite of its own."""

    def __init__(self, scheme: QuantizationScheme, **options: Any) -> None:
        self.scheme, self.options = scheme, options
        self.grid = Grid(
            steps=2.0**scheme.bits - 1,
            smallest_scale=SMALLEST_SCALE,
            zero_is_level=False,
            # Rounding the offset moves a range by up to half a step, whose end is then cut off.
            rounding_error=1.0 if options.get("round_zero") else 0.5,
        )

    def quantize(self, weight: Tensor) -> tuple[Tensor, dict[str, Any]]:
        codes, constants = hqq.Quantizer.quantize(
            weight,
            nbits=self.scheme.bits,
            group_size=self.scheme.group_size,
            axis=1,
            bitpack=False,
            device="cpu",
            **self.options,
        )
        return codes, {**constants, "compute_dtype": weight.dtype}

    def dequantize(self, quantized: tuple[Tensor, dict[str, Any]]) -> Tensor:
        restored: Tensor = hqq.Quantizer.dequantize(*quantized)
        return restored

    def scales(self, quantized: tuple[Tensor, dict[str, Any]]) -> Tensor:
        scales: Tensor = quantized[1]["scale"]
        return scales


class OfGroups(QuantizerSuite):
    capabilities = frozenset({"scales", "strided"})
    schemes = tuple(
        QuantizationScheme(bits, False, Granularity.GROUP, group_size=32) for bits in (2, 3, 4, 8)
    )
    dtypes = (torch.float32,)
    ranks = (2, 3)
    examples = 20


class TestFloatOffsets(OfGroups):
    @pytest.fixture
    def make_quantizer(self) -> MakeQuantizer:
        return lambda scheme: Groups(scheme, optimize=False)


class TestRoundedOffsets(OfGroups):
    expected_failures = {  # noqa: RUF012  # read only
        "test_error_is_within_the_bound_of_the_scheme": CONSTANT_GROUPS,
        "test_powers_of_two_pass_through": CONSTANT_GROUPS,
    }

    @pytest.fixture
    def make_quantizer(self) -> MakeQuantizer:
        return lambda scheme: Groups(scheme, optimize=False, round_zero=True)


class Packing:
    """`BitPack`, which packs rows of a matrix by the halves, quarters or tenths of the matrix."""

    NAMES = {2: "2bit_u8", 3: "3bit_32", 4: "4bit_u8", 8: "8bit_u8"}  # noqa: RUF012  # read only

    def pack(self, codes: Tensor, bits: int) -> Tensor:
        packed: Tensor = hqq.Quantizer.pack[self.NAMES[bits]](codes[:, None])
        return packed

    def unpack(self, packed: Tensor, bits: int, count: int, signed: bool) -> Tensor:
        unpacked: Tensor = hqq.Quantizer.unpack[self.NAMES[bits]](packed)
        return unpacked[:count, 0]


class TestPacking(PackingSuite):
    capabilities = frozenset({"unchecked"})
    bits = (2, 4, 8)
    signs = (False,)
    count_multiple = 4  # a matrix of whole quarters

    @pytest.fixture
    def packing(self) -> Packing:
        return Packing()


class TestPackingOfThreeBits(PackingSuite):
    """Ten codes to a word of 32 bits, two of which stay empty; only whole words are kept."""

    capabilities = frozenset({"unchecked"})
    bits = (3,)
    signs = (False,)
    count_multiple = 10
    unit_bits = 32
    straddles = False

    @pytest.fixture
    def packing(self) -> Packing:
        return Packing()
