"""QuantizedLinearSuite accepts the reference's layers, and torchao's."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from infopt_reference.quantization import QuantizationScheme, preset
from infopt_reference.quantization.linear import QuantizedLinear
from infopt_reference.quantization.llm_int8 import LLMInt8Linear
from infopt_suites import QuantizedLinearSuite
from infopt_suites.quantization import Grid
from torch import nn


class TestReference(QuantizedLinearSuite):
    schemes = (preset("int8"), preset("int4"), preset("nf4"), preset("nf4-double"))

    @pytest.fixture
    def make_quantized_linear(self) -> Any:
        return QuantizedLinear.from_linear


class TestReferenceOfInt8(QuantizedLinearSuite):
    schemes = (preset("int8"),)
    activation_bits = 8

    @pytest.fixture
    def make_quantized_linear(self) -> Any:
        return lambda linear, scheme: LLMInt8Linear.from_linear(linear, threshold=math.inf)


class TestReferenceWithOutliers(TestReferenceOfInt8):
    capabilities = frozenset({"outliers"})

    @pytest.fixture
    def make_quantized_linear(self) -> Any:
        return lambda linear, scheme: LLMInt8Linear.from_linear(linear)


def torchao_layer(linear: nn.Linear, scheme: QuantizationScheme) -> nn.Module:
    torchao = pytest.importorskip("torchao.quantization")
    layer = copy.deepcopy(linear)
    torchao.quantize_(layer, torchao.Int8WeightOnlyConfig())
    # −128…127 over twice the absmax; scales are stored in the weight's dtype.
    layer.grid = Grid(steps=127.5, scale_follows_weight=True)  # type: ignore[assignment]
    return layer


class TestTorchaoInt8(QuantizedLinearSuite):
    schemes = (preset("int8"),)
    dtypes = (torch.float32,)

    @pytest.fixture
    def make_quantized_linear(self) -> Any:
        return torchao_layer
