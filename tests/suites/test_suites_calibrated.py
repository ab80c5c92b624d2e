"""CalibratedQuantizerSuite accepts the reference's GPTQ and AWQ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from infopt_reference.quantization import (
    Granularity,
    QuantizationScheme,
    QuantizedTensor,
    preset,
    quantize,
)
from infopt_reference.quantization.awq import search_awq_scales
from infopt_reference.quantization.calibration import ActivationStatistics, HessianStatistics
from infopt_reference.quantization.gptq import gptq
from infopt_suites import CalibratedQuantizerSuite
from torch import Tensor

GROUPS = (
    QuantizationScheme(bits=4, granularity=Granularity.CHANNEL),
    QuantizationScheme(bits=3, symmetric=False, granularity=Granularity.CHANNEL),
    preset("int4", group_size=32),
    preset("int4", group_size=48),  # 128 columns hold no whole number of these
    preset("int3", symmetric=True, group_size=64),
)

GPTQ = frozenset({"ragged", "streaming", "feedback", "drops-dead", "state"})


class Gptq:
    options: dict[str, Any] = {}  # noqa: RUF012  # read only

    def __init__(self, scheme: QuantizationScheme) -> None:
        self.scheme = scheme
        self.statistics: HessianStatistics | None = None

    def observe(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        if self.statistics is None:
            self.statistics = HessianStatistics(inputs.shape[-1])
        self.statistics.observe(inputs, mask)

    def quantize(self, weight: Tensor) -> QuantizedTensor:
        assert self.statistics is not None
        return gptq(weight, self.statistics.hessian, self.scheme, **self.options)

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        return quantized.dequantize()

    def state(self, quantized: QuantizedTensor) -> Mapping[str, Tensor]:
        return quantized.constants

    def restore(self, state: Mapping[str, Tensor], quantized: QuantizedTensor) -> QuantizedTensor:
        return replace(quantized, **state)  # type: ignore[arg-type]  # its tensors


class StaticGroups(Gptq):
    options = {"static_groups": True, "block_size": 40}  # noqa: RUF012


class ActOrder(Gptq):
    options = {"act_order": True}  # noqa: RUF012


class RowFallback(Gptq):
    options = {"row_fallback": True}  # noqa: RUF012


class TestGptq(CalibratedQuantizerSuite):
    capabilities = frozenset({"ragged", "streaming", "masks", "gptq", "updated-groups"}) | GPTQ
    schemes = GROUPS

    @pytest.fixture
    def make_calibrated_quantizer(self) -> type[Gptq]:
        return Gptq


class TestStaticGroups(CalibratedQuantizerSuite):
    capabilities = frozenset({"ragged", "streaming", "masks", "gptq", "static-groups"}) | GPTQ
    schemes = GROUPS

    @pytest.fixture
    def make_calibrated_quantizer(self) -> type[Gptq]:
        return StaticGroups


class TestActOrder(CalibratedQuantizerSuite):
    capabilities = frozenset({"masks", "gptq", "static-groups", "act-order"}) | GPTQ

    @pytest.fixture
    def make_calibrated_quantizer(self) -> type[Gptq]:
        return ActOrder


class TestRowFallback(CalibratedQuantizerSuite):
    capabilities = frozenset({"ragged", "streaming", "masks"})
    schemes = (preset("nf4"), preset("nf4-double"), *GROUPS[2:])
    dtypes = (torch.float32, torch.float16, torch.float64)

    @pytest.fixture
    def make_calibrated_quantizer(self) -> type[Gptq]:
        return RowFallback


class Awq:
    """Scales by search, the weight quantized with them, and divided by them again."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        self.scheme = scheme
        self.batches: list[tuple[Tensor, Tensor | None]] = []

    def observe(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        self.batches.append((inputs, mask))

    def quantize(self, weight: Tensor) -> tuple[QuantizedTensor, Tensor]:
        hessian, activations = (
            kind(weight.shape[1]) for kind in (HessianStatistics, ActivationStatistics)
        )
        for inputs, mask in self.batches:
            hessian.observe(inputs, mask)
            activations.observe(inputs, mask)
        scales = search_awq_scales(
            [weight], activations.mean_abs, hessian.hessian, self.scheme
        ).scales
        return quantize((weight.double() * scales).to(weight.dtype), self.scheme), scales

    def dequantize(self, quantized: tuple[QuantizedTensor, Tensor]) -> Tensor:
        weight, scales = quantized
        return (weight.dequantize(torch.float64) / scales).to(weight.dtype)


class TestAwq(CalibratedQuantizerSuite):
    capabilities = frozenset(
        {"ragged", "streaming", "masks", "mean-statistic", "keeps-zeros", "searched"}
    )
    schemes = (preset("int4", group_size=32), preset("nf4", group_size=32), GROUPS[0])

    @pytest.fixture
    def make_calibrated_quantizer(self) -> type[Awq]:
        return Awq
