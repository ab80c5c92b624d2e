"""The block formats of llama.cpp, as the gguf package writes and reads them, through the suite.

Each block of 32 weights has a float16 scale d, and in the ``_1`` formats its smallest weight m as
float16 too. Codes are computed with the exact d, decoding multiplies by the rounded one. float16
has the spacing 2^−24 below 2^−14, so a d there is off by up to 2^−25 and the outermost weight by
``steps`` times that; a claim of ``smallest_scale`` allows half of itself, hence the 2^−24 below.
"""

from __future__ import annotations

from collections.abc import Mapping

import gguf
import numpy as np
import pytest
import torch
from infopt_reference.quantization import Granularity, QuantizationScheme
from infopt_suites.quantization import Grid, MakeQuantizer, QuantizerSuite
from torch import Tensor

FLOAT16_SPACING = 2.0**-24


class Blocks:
    """`gguf.quants.quantize` and `dequantize`; quantized is the bytes and the weight's dtype."""

    def __init__(self, form: gguf.GGMLQuantizationType, steps: float, **claims: float) -> None:
        self.form = form
        self.grid = Grid(steps=steps, smallest_scale=steps * FLOAT16_SPACING, **claims)

    def quantize(self, weight: Tensor) -> tuple[np.ndarray, torch.dtype]:
        # 1/d is infinite where d is subnormal in float32; it is 0 in float16, so codes are void.
        with np.errstate(over="ignore", invalid="ignore"):
            return gguf.quants.quantize(weight.float().numpy(), self.form), weight.dtype

    def dequantize(self, quantized: tuple[np.ndarray, torch.dtype]) -> Tensor:
        blocks, dtype = quantized
        return torch.from_numpy(gguf.quants.dequantize(blocks, self.form)).to(dtype)

    def state(self, quantized: tuple[np.ndarray, torch.dtype]) -> Mapping[str, Tensor]:
        return {"blocks": torch.from_numpy(quantized[0].copy())}

    def restore(
        self, state: Mapping[str, Tensor], quantized: tuple[np.ndarray, torch.dtype]
    ) -> tuple[np.ndarray, torch.dtype]:
        return state["blocks"].numpy(), quantized[1]


def block_scheme(bits: int, symmetric: bool = True) -> QuantizationScheme:
    return QuantizationScheme(
        bits, symmetric, Granularity.GROUP, group_size=32, scale_dtype=torch.float16
    )


class OfBlocks(QuantizerSuite):
    capabilities = frozenset({"state", "strided"})
    examples = 20


class TestQ8_0(OfBlocks):
    """An absmax grid of 8 bit."""

    schemes = (block_scheme(8),)

    @pytest.fixture
    def make_quantizer(self) -> MakeQuantizer:
        return lambda scheme: Blocks(gguf.GGMLQuantizationType.Q8_0, 127)


class TestQ4_0AndQ5_0(OfBlocks):
    """The weight of largest magnitude, with its sign, becomes −2^(b−1).

    So the grid has 2^(b−1) steps on that side and one less on the other, where a weight of the same
    magnitude loses a whole step.
    """

    schemes = (block_scheme(4), block_scheme(5))

    @pytest.fixture
    def make_quantizer(self) -> MakeQuantizer:
        forms = {4: gguf.GGMLQuantizationType.Q4_0, 5: gguf.GGMLQuantizationType.Q5_0}
        return lambda scheme: Blocks(
            forms[scheme.bits], 2.0 ** (scheme.bits - 1), rounding_error=1.0
        )


class TestQ4_1AndQ5_1(OfBlocks):
    """From the smallest weight in 2^b − 1 steps to the largest; 0 is a level by chance alone."""

    schemes = (block_scheme(4, symmetric=False), block_scheme(5, symmetric=False))

    @pytest.fixture
    def make_quantizer(self) -> MakeQuantizer:
        forms = {4: gguf.GGMLQuantizationType.Q4_1, 5: gguf.GGMLQuantizationType.Q5_1}
        return lambda scheme: Blocks(forms[scheme.bits], 2.0**scheme.bits - 1, zero_is_level=False)
