"""ActivationQuantizerSuite accepts the reference's roundings, and says what it cannot use."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from infopt_reference.quantization import (
    Granularity,
    QuantizationScheme,
    StaticActivationQuantizer,
    preset,
    quantize_activations,
    round_activations,
)
from infopt_suites import ActivationQuantizerSuite
from torch import Tensor

ROUNDED = frozenset({"straight-through", "strided", "no-tokens", "ragged", "refuses-nonfinite"})


class TestReference(ActivationQuantizerSuite):
    capabilities = ROUNDED
    examples = 12
    schemes = (
        preset("int8"),
        preset("int8", symmetric=False),
        preset("fp8"),
        preset("int4", group_size=32),
        preset("int8", granularity="group", group_size=128),
        preset("int8", granularity="tensor"),
    )

    @pytest.fixture
    def make_activation_quantizer(self) -> Any:
        return lambda scheme: partial(round_activations, scheme=scheme)


def coded(x: Tensor, scheme: QuantizationScheme) -> tuple[Tensor, ...]:
    quantized = quantize_activations(x, scheme)
    codes = quantized.unpacked_codes().view(x.shape)
    zeros = quantized.zero_points
    return (codes, quantized.scales) if zeros is None else (codes, quantized.scales, zeros)


class TestReferenceCodes(ActivationQuantizerSuite):
    capabilities = frozenset({"codes", "strided", "refuses-nonfinite"})
    examples = 12
    schemes = (preset("int8"), preset("int4", symmetric=False, scale_dtype=torch.float32))

    @pytest.fixture
    def make_activation_quantizer(self) -> Any:
        return lambda scheme: partial(coded, scheme=scheme)


class TestStaticReference(ActivationQuantizerSuite):
    capabilities = ROUNDED | {"static", "all-batches"}
    examples = 12
    schemes = tuple(
        QuantizationScheme(8, symmetric, Granularity.TENSOR) for symmetric in (True, False)
    )

    @pytest.fixture
    def make_activation_quantizer(self) -> Any:
        return StaticActivationQuantizer


def test_a_static_range_is_per_tensor() -> None:
    with pytest.raises(ValueError, match="static ranges are per tensor"):
        StaticActivationQuantizer(preset("int8"))


def test_a_static_range_holds_zero_and_the_extremes_of_all_batches() -> None:
    quantizer = StaticActivationQuantizer(preset("int8", granularity="tensor", symmetric=False))
    quantizer.observe(torch.tensor([[1.0, 51.0]]))
    quantizer.observe(torch.tensor([[-204.0, 2.0]]))
    # One step is (51 + 204) / 255.
    found = quantizer(torch.tensor([[-300.0, -3.4, 0.0, 7.6, 60.0]]))
    assert found.tolist() == [[-204.0, -3.0, 0.0, 8.0, 51.0]]


def test_what_is_no_result_is_said_before_anything_is_tried() -> None:
    suite = type("Trial", (ActivationQuantizerSuite,), {})()
    with pytest.raises(TypeError, match="gave str; give the rounded activations"):
        suite.check_implementation(lambda scheme: lambda x: "rounded")


def test_constants_of_another_granularity_are_said_before_anything_is_tried() -> None:
    suite = type("Trial", (ActivationQuantizerSuite,), {})()
    with pytest.raises(TypeError, match=r"there are 1 scales .* for 2 tokens of 8 features"):
        suite.check_implementation(lambda scheme: lambda x: (x.char(), torch.ones(1)))


def test_an_object_may_have_quantize_in_place_of_a_call() -> None:
    class Named:
        def __init__(self, scheme: QuantizationScheme) -> None:
            self.scheme = scheme

        def quantize(self, x: Tensor) -> Tensor:
            return round_activations(x, self.scheme)

    type("Trial", (ActivationQuantizerSuite,), {})().check_implementation(Named)
