"""FakeQuantSuite accepts the reference, and torch's own fake quantization operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from infopt_reference.quantization import (
    PRESETS,
    Granularity,
    QuantizationScheme,
    QuantizedTensor,
    convert_qat,
    fake_quantize,
    prepare_qat,
    preset,
    quantize,
)
from infopt_suites import FakeQuantSuite
from torch import Tensor, nn


class Deployed:
    def __init__(self, scheme: QuantizationScheme) -> None:
        self.scheme = scheme

    def quantize(self, weight: Tensor) -> QuantizedTensor:
        return quantize(weight, self.scheme)

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        return quantized.dequantize()


class Reference:
    """`fake_quantize`, `prepare_qat` and `convert_qat`."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        self.scheme = scheme
        self.quantizer = Deployed(scheme)

    def __call__(self, weight: Tensor, **given: Any) -> Tensor:
        return fake_quantize(weight, self.scheme, **given)

    def prepare(self, linear: nn.Linear) -> nn.Module:
        model = nn.Sequential(linear)
        prepare_qat(model, self.scheme)
        return model

    def convert(self, prepared: nn.Module) -> nn.Module:
        convert_qat(prepared)
        return prepared


class TestReference(FakeQuantSuite):
    capabilities = frozenset({"ragged", "given-scales", "rounds-then-clamps", "modules"})
    schemes = (
        *PRESETS.values(),
        preset("int4", group_size=32),
        preset("int4", group_size=128),
        preset("int8", symmetric=False, granularity=Granularity.TENSOR),
        preset("int4", symmetric=True, group_size=16),
    )

    @pytest.fixture
    def make_fake_quantizer(self) -> type[Reference]:
        return Reference


class TorchOperators:
    """torch.fake_quantize_per_*_affine; scales from the weights by torch's own arithmetic."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        self.scheme = scheme
        self.quantizer = self

    def __call__(
        self, weight: Tensor, *, scales: Tensor | None = None, zero_points: Tensor | None = None
    ) -> Tensor:
        if scales is None:
            scales, zero_points = self._range(weight.detach())
        if zero_points is None:
            zero_points = torch.zeros_like(scales)
        low, high = self._codes()
        zero_points = zero_points.to(torch.int32)
        if self.scheme.granularity is Granularity.TENSOR:
            return torch.fake_quantize_per_tensor_affine(weight, scales, zero_points, low, high)
        return torch.fake_quantize_per_channel_affine(weight, scales, zero_points, 0, low, high)

    def quantize(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scales, zeros = self._range(weight)
        columns, offsets = scales.reshape(-1, 1), zeros.reshape(-1, 1)
        # As the operators do it: times the reciprocal, not divided.
        steps = (weight * (1 / columns)).round() + offsets
        return steps.clamp(*self._codes()), columns, offsets

    def dequantize(self, quantized: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        codes, scales, zero_points = quantized
        return (codes - zero_points) * scales

    def _codes(self) -> tuple[int, int]:
        if self.scheme.symmetric:
            largest = 2 ** (self.scheme.bits - 1) - 1
            return -largest, largest
        return 0, 2**self.scheme.bits - 1

    def _range(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        dims = () if self.scheme.granularity is Granularity.TENSOR else (1,)
        low = weight.amin(dim=dims).clamp(max=0)
        high = weight.amax(dim=dims).clamp(min=0)
        least = torch.finfo(torch.float32).eps
        if self.scheme.symmetric:
            scales = (torch.maximum(-low, high) / self._codes()[1]).clamp(min=least)
            return scales, torch.zeros_like(scales)
        scales = ((high - low) / self._codes()[1]).clamp(min=least)
        return scales, (-low / scales).round().clamp(*self._codes())


class TestTorchOperators(FakeQuantSuite):
    capabilities = frozenset({"given-scales", "rounds-then-clamps"})
    dtypes = (torch.float32,)
    schemes = tuple(
        QuantizationScheme(bits=bits, symmetric=symmetric, granularity=granularity)
        for bits in (4, 8)
        for symmetric in (True, False)
        for granularity in (Granularity.TENSOR, Granularity.CHANNEL)
    )

    @pytest.fixture
    def make_fake_quantizer(self) -> type[TorchOperators]:
        return TorchOperators
