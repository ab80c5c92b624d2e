"""SmoothingSuite accepts the reference's AWQ and SmoothQuant."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from infopt_reference.quantization import preset
from infopt_reference.quantization.awq import search_awq_scales
from infopt_reference.quantization.calibration import ActivationStatistics, HessianStatistics
from infopt_reference.quantization.smoothing import smooth
from infopt_reference.quantization.smoothquant import smoothquant_scales
from infopt_suites import SmoothingSuite
from torch import Tensor, nn


class Awq:
    def smooth(self, producer: nn.Module, consumers: Sequence[nn.Linear], inputs: Tensor) -> None:
        activations = ActivationStatistics(inputs.shape[-1])
        hessian = HessianStatistics(inputs.shape[-1])
        activations.observe(inputs)
        hessian.observe(inputs)
        weights = [layer.weight.detach() for layer in consumers]
        scheme = preset("int4", group_size=32)
        found = search_awq_scales(weights, activations.mean_abs, hessian.hessian, scheme)
        smooth(producer, consumers, found.scales)


class SmoothQuant:
    def smooth(self, producer: nn.Module, consumers: Sequence[nn.Linear], inputs: Tensor) -> None:
        activations = ActivationStatistics(inputs.shape[-1])
        activations.observe(inputs)
        weights = [layer.weight.detach() for layer in consumers]
        smooth(producer, consumers, smoothquant_scales(weights, activations.max_abs))


class TestAwq(SmoothingSuite):
    capabilities = frozenset({"norms", "linear-producers", "mean-statistic"})

    @pytest.fixture
    def make_smoother(self) -> type[Awq]:
        return Awq


class TestSmoothQuant(SmoothingSuite):
    capabilities = frozenset({"norms", "linear-producers"})

    @pytest.fixture
    def make_smoother(self) -> type[SmoothQuant]:
        return SmoothQuant
