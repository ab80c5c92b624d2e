"""torchao's fake quantizer and AWQ through the suites: accepted, or a finding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from infopt_reference.quantization import Granularity, QuantizationScheme
from infopt_suites import CalibratedQuantizerSuite, FakeQuantSuite
from torch import Tensor, nn

quantization = pytest.importorskip("torchao.quantization")
qat = pytest.importorskip("torchao.quantization.qat")
awq = pytest.importorskip("torchao.prototype.awq.core")

DTYPES = {4: torch.int4, 8: torch.int8}


def groups(bits: int, symmetric: bool) -> QuantizationScheme:
    return QuantizationScheme(
        bits=bits, symmetric=symmetric, granularity=Granularity.GROUP, group_size=32
    )


def configuration(scheme: QuantizationScheme) -> Any:
    mapping = quantization.MappingType
    return quantization.IntxWeightOnlyConfig(
        weight_dtype=DTYPES[scheme.bits],
        granularity=quantization.PerGroup(scheme.group_size),
        mapping_type=mapping.SYMMETRIC if scheme.symmetric else mapping.ASYMMETRIC,
    )


class Intx:
    """IntxWeightOnlyConfig."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        self.scheme = scheme

    def quantize(self, weight: Tensor) -> Any:
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
        linear.weight.data = weight.detach().clone()
        quantization.quantize_(linear, configuration(self.scheme))
        return linear.weight

    def dequantize(self, quantized: Any) -> Tensor:
        restored: Tensor = quantized.dequantize().detach()
        return restored


class FakeIntx:
    """IntxFakeQuantizer."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        self.quantizer = Intx(scheme)
        config = qat.IntxFakeQuantizeConfig(
            DTYPES[scheme.bits], group_size=scheme.group_size, is_symmetric=scheme.symmetric
        )
        self.fake = qat.IntxFakeQuantizer(config)

    def __call__(self, weight: Tensor) -> Tensor:
        rounded: Tensor = self.fake(weight)
        return rounded


class TestFakeIntx(FakeQuantSuite):
    schemes = (groups(4, symmetric=True), groups(8, symmetric=True))
    dtypes = (torch.float32,)

    @pytest.fixture
    def make_fake_quantizer(self) -> type[FakeIntx]:
        return FakeIntx


class TestAsymmetricFakeIntx(FakeQuantSuite):
    schemes = (groups(4, symmetric=False), groups(8, symmetric=False))
    dtypes = (torch.float32,)
    expected_failures = {  # noqa: RUF012
        "test_training_sees_what_is_deployed": "tests/findings: zero points of another convention"
    }

    @pytest.fixture
    def make_fake_quantizer(self) -> type[FakeIntx]:
        return FakeIntx


class Awq:
    """AWQObserver, and the weights as AWQ's transform leaves them."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        self.intx = Intx(scheme)
        self.batches: list[Tensor] = []

    def observe(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        self.batches.append(inputs.reshape(-1, inputs.shape[-1]))

    def quantize(self, weight: Tensor) -> Any:
        observer = awq.AWQObserver(weight, None, configuration(self.intx.scheme))
        for batch in self.batches:
            observer(batch, None)
        scales = observer.calculate_qparams()
        return self.intx.quantize(weight * scales), scales

    def dequantize(self, quantized: Any) -> Tensor:
        weight, scales = quantized
        return self.intx.dequantize(weight) / scales


class TestAwq(CalibratedQuantizerSuite):
    capabilities = frozenset({"streaming", "mean-statistic"})
    schemes = (groups(4, symmetric=True), groups(4, symmetric=False))
    dtypes = (torch.float32,)

    @pytest.fixture
    def make_calibrated_quantizer(self) -> type[Awq]:
        return Awq
