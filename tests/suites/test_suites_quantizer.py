"""QuantizerSuite accepts the reference, by a subclass, as everybody uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from infopt_reference.quantization import (
    PRESETS,
    Granularity,
    QuantizationScheme,
    QuantizedTensor,
    quantize,
)
from infopt_suites.quantization import QuantizerSuite
from infopt_suites.quantization.trials import require_near, require_same


class Reference:
    """`infopt_reference.quantization.quantize` as the suites' protocol."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        self.scheme = scheme

    def quantize(self, weight: torch.Tensor) -> QuantizedTensor:
        return quantize(weight, self.scheme)

    def dequantize(self, quantized: QuantizedTensor) -> torch.Tensor:
        return quantized.dequantize()

    def codes(self, quantized: QuantizedTensor) -> torch.Tensor:
        return quantized.unpacked_codes()

    def scales(self, quantized: QuantizedTensor) -> torch.Tensor:
        return quantized.scales

    def state(self, quantized: QuantizedTensor) -> Mapping[str, torch.Tensor]:
        return quantized.constants

    def restore(self, state: Mapping[str, torch.Tensor], quantized: Any) -> QuantizedTensor:
        return replace(quantized, **state)


EQUAL_STEPS = [
    QuantizationScheme(bits=bits, symmetric=symmetric, granularity=Granularity.GROUP, group_size=32)
    for bits in (2, 3, 4, 5, 8)
    for symmetric in (True, False)
]
PLACES = [
    QuantizationScheme(bits=4, symmetric=False),
    QuantizationScheme(bits=4, symmetric=False, granularity=Granularity.CHANNEL),
    QuantizationScheme(bits=4, symmetric=False, granularity=Granularity.CHANNEL, axis=-1),
    QuantizationScheme(bits=8, granularity=Granularity.CHANNEL, axis=0),
    QuantizationScheme(bits=4, granularity=Granularity.CHANNEL, axis=-1, codebook="nf4"),
    QuantizationScheme(bits=4, symmetric=False, granularity=Granularity.GROUP, group_size=128),
]


class TestReference(QuantizerSuite):
    capabilities = frozenset({"codes", "scales", "state", "ragged", "strided", "refuses-nonfinite"})
    schemes = (*PRESETS.values(), *EQUAL_STEPS, *PLACES)

    @pytest.fixture
    def make_quantizer(self) -> type[Reference]:
        return Reference


def test_a_nan_is_the_same_as_a_nan_and_as_nothing_else() -> None:
    number, nan = torch.tensor([1.0, 2.0]), torch.tensor([1.0, torch.nan])
    nobody = torch.zeros(2, dtype=torch.bool)
    require_same(nan, nan.clone())
    require_near(nan, nan.clone(), 1e-3, nobody)
    for found, expected in ((nan, number), (number, nan)):
        with pytest.raises(AssertionError, match="nan"):
            require_same(found, expected)
        with pytest.raises(AssertionError, match="nan"):
            require_near(found, expected, 1e-3, nobody)
        require_same(found, expected, excused=torch.tensor([False, True]))
