"""A small fake quantizer that is right, and the same with faults that libraries have shipped."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from infopt_reference.quantization import (
    Granularity,
    QuantizationScheme,
    QuantizedTensor,
    quantize,
)
from torch import Tensor, nn
from torch.nn import functional

AREA = "1 fake quantization"
ATTRIBUTES = {
    "capabilities": {"ragged", "given-scales", "rounds-then-clamps", "modules"},
    "examples": 15,
}


class Deployed:
    """What training should show."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        self.scheme = scheme

    def quantize(self, weight: Tensor) -> QuantizedTensor:
        return quantize(weight, self.scheme)

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        return quantized.dequantize()


class Straight(torch.autograd.Function):
    """Forward: rounded. Backward: the gradient times ``factor``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rounded: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return rounded.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (factor,) = ctx.saved_tensors
        return gradient * factor.to(gradient.dtype), None, None


class SmallFakeQuantizer:
    def __init__(self, scheme: QuantizationScheme) -> None:
        self.scheme = scheme
        self.quantizer = Deployed(scheme)

    def __call__(
        self, weight: Tensor, *, scales: Tensor | None = None, zero_points: Tensor | None = None
    ) -> Tensor:
        if scales is None:
            rounded, factor = self.rounded(weight.detach()), torch.ones_like(weight)
        else:
            rounded, factor = self.clamped(weight.detach(), scales, zero_points)
        return self.passed(weight, rounded, factor)

    def rounded(self, weight: Tensor) -> Tensor:
        return quantize(weight, self.scheme).dequantize()

    def clamped(
        self, weight: Tensor, scales: Tensor, zero_points: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Rounded weights, and which are inside."""
        scales = scales.reshape(-1, 1)
        low, high = self.levels(zero_points)
        steps = (weight / scales).round()
        return steps.clamp(low, high) * scales, self.inside(weight / scales, low, high)

    def levels(self, zero_points: Tensor | None) -> tuple[Tensor, Tensor]:
        if zero_points is None:
            largest = torch.tensor(2.0 ** (self.scheme.bits - 1) - 1)
            return -largest, largest
        zeros = zero_points.reshape(-1, 1).float()
        return -zeros, 2.0**self.scheme.bits - 1 - zeros

    def inside(self, steps: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return (steps.round() >= low) & (steps.round() <= high)

    def passed(self, weight: Tensor, rounded: Tensor, factor: Tensor) -> Tensor:
        result: Tensor = Straight.apply(weight, rounded, factor)
        return result

    def prepare(self, linear: nn.Linear) -> nn.Module:
        return FakeLinear(linear, self)

    def convert(self, prepared: nn.Module) -> nn.Module:
        assert isinstance(prepared, FakeLinear)
        linear = nn.Linear(prepared.linear.in_features, prepared.linear.out_features)
        linear.load_state_dict(prepared.linear.state_dict())
        linear.weight.data = self.rounded(linear.weight.data)
        return linear


class FakeLinear(nn.Module):
    def __init__(self, linear: nn.Linear, fake: SmallFakeQuantizer) -> None:
        super().__init__()
        self.linear, self.fake = linear, fake

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.fake(self.linear.weight), self.linear.bias)


# Faults of the forward pass


class GroupSizeHardCoded(SmallFakeQuantizer):
    """Q34 (pytorch/ao#4518): training rounds in groups of 128, whatever is deployed."""

    def rounded(self, weight: Tensor) -> Tensor:
        scheme = self.scheme
        if scheme.granularity is Granularity.GROUP:
            scheme = replace(scheme, group_size=128)
        return quantize(weight, scheme).dequantize()


class ScalesNotStored(SmallFakeQuantizer):
    """Unlisted: training uses float32 scales, the checkpoint float16."""

    def rounded(self, weight: Tensor) -> Tensor:
        return quantize(weight, replace(self.scheme, scale_dtype=torch.float32)).dequantize()


class RoundsInFloat16(SmallFakeQuantizer):
    """Unlisted: training computes in half precision, deployment in single."""

    def rounded(self, weight: Tensor) -> Tensor:
        return super().rounded(weight.half().to(weight.dtype))


class RoundsInPlace(SmallFakeQuantizer):
    """Unlisted: the float weight itself is rounded, and training forgets all that is finer."""

    def rounded(self, weight: Tensor) -> Tensor:
        return weight.copy_(super().rounded(weight))


class RunningRange(SmallFakeQuantizer):
    """Unlisted: the range is that of all weights seen so far."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        self.largest = 0.0

    def rounded(self, weight: Tensor) -> Tensor:
        self.largest = max(self.largest, float(weight.abs().max()))
        widened = weight.clone()
        widened.view(-1)[0] = self.largest
        rounded = super().rounded(widened)
        rounded.view(-1)[0] = super().rounded(weight).view(-1)[0]
        return rounded


# Faults of the gradient


class Detached(SmallFakeQuantizer):
    """Q46 (optimum-quanto#2): the result has no gradient at all."""

    def passed(self, weight: Tensor, rounded: Tensor, factor: Tensor) -> Tensor:
        return rounded.requires_grad_()


class RoundWithoutEstimator(SmallFakeQuantizer):
    """Q46: the gradient is the true one of a staircase, 0."""

    def passed(self, weight: Tensor, rounded: Tensor, factor: Tensor) -> Tensor:
        return super().passed(weight, rounded, torch.zeros_like(weight))


class ScaledGradient(SmallFakeQuantizer):
    """Unlisted: the gradient is divided by the number of codes."""

    def passed(self, weight: Tensor, rounded: Tensor, factor: Tensor) -> Tensor:
        return super().passed(weight, rounded, factor / 2.0**self.scheme.bits)


class ZeroAtTheEnds(SmallFakeQuantizer):
    """Unlisted: strict inequalities; the largest weights of all are never trained."""

    def inside(self, steps: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return (steps.round() > low) & (steps.round() < high)


class PassesOutside(SmallFakeQuantizer):
    """Unlisted: clamped weights get a gradient too, and run away."""

    def inside(self, steps: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.ones_like(steps, dtype=torch.bool)


class ComparesBeforeRounding(SmallFakeQuantizer):
    """Unlisted: claims torch's rule, and compares the weight where the code is meant."""

    def inside(self, steps: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return (steps >= low) & (steps <= high)


class ZeroPointForgotten(SmallFakeQuantizer):
    """Unlisted: the comparison takes codes for steps from 0."""

    def inside(self, steps: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return super().inside(steps, low * 0, high - low)


class ZeroWhereLargest(SmallFakeQuantizer):
    """Unlisted: scales from the weights, and the gradient of a clamp that is 0 at its ends."""

    def passed(self, weight: Tensor, rounded: Tensor, factor: Tensor) -> Tensor:
        ends = rounded.abs() == rounded.abs().amax()
        return super().passed(weight, rounded, factor * ~ends)


class FirstWeightForEver(SmallFakeQuantizer):
    """Not listed: the first weight's result, whatever comes after it."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        self.results: dict[Any, Tensor] = {}

    def rounded(self, weight: Tensor) -> Tensor:
        return self.results.setdefault((weight.shape, weight.dtype), super().rounded(weight))


# Faults of conversion


class FloatWeightsDeployed(SmallFakeQuantizer):
    """Unlisted: conversion forgets to quantize."""

    def convert(self, prepared: nn.Module) -> nn.Module:
        assert isinstance(prepared, FakeLinear)
        return prepared.linear


class ConvertsToAnotherScheme(SmallFakeQuantizer):
    """Q34, the other way round: conversion takes bits from a default."""

    def convert(self, prepared: nn.Module) -> nn.Module:
        return SmallFakeQuantizer(replace(self.scheme, bits=5)).convert(prepared)


class WeightFrozen(SmallFakeQuantizer):
    """Q46: the prepared layer trains its bias alone."""

    def prepare(self, linear: nn.Linear) -> nn.Module:
        linear.weight.requires_grad_(False)
        return super().prepare(linear)


@dataclass(frozen=True)
class FakeQuantizerMutant:
    """``fault`` must break the property; `SmallFakeQuantizer` must keep it."""

    fault: type[SmallFakeQuantizer]
    broken: str


FORWARD = "test_training_sees_what_is_deployed"
STRAIGHT = "test_gradients_pass_straight_through"
CLAMP = "test_given_scales_clamp_and_stop_gradients_outside"
CONVERTED = "test_the_deployed_layer_computes_what_the_trained_one_did"

FAKE_QUANTIZER_MUTANTS = [
    FakeQuantizerMutant(GroupSizeHardCoded, FORWARD),
    FakeQuantizerMutant(ScalesNotStored, FORWARD),
    FakeQuantizerMutant(RoundsInFloat16, FORWARD),
    FakeQuantizerMutant(RoundsInPlace, "test_the_weight_is_not_modified"),
    FakeQuantizerMutant(RunningRange, "test_nothing_is_remembered_from_earlier_weights"),
    FakeQuantizerMutant(FirstWeightForEver, "test_nothing_is_remembered_from_earlier_weights"),
    FakeQuantizerMutant(Detached, STRAIGHT),
    FakeQuantizerMutant(RoundWithoutEstimator, STRAIGHT),
    FakeQuantizerMutant(RoundWithoutEstimator, "test_training_moves_the_deployed_weights"),
    FakeQuantizerMutant(ScaledGradient, STRAIGHT),
    FakeQuantizerMutant(ZeroWhereLargest, STRAIGHT),
    FakeQuantizerMutant(ZeroAtTheEnds, CLAMP),
    FakeQuantizerMutant(PassesOutside, CLAMP),
    FakeQuantizerMutant(ZeroPointForgotten, CLAMP),
    FakeQuantizerMutant(
        ComparesBeforeRounding, "test_half_a_step_beyond_the_levels_still_has_a_gradient"
    ),
    FakeQuantizerMutant(FloatWeightsDeployed, CONVERTED),
    FakeQuantizerMutant(ConvertsToAnotherScheme, CONVERTED),
    FakeQuantizerMutant(WeightFrozen, "test_training_changes_every_weight_of_the_layer"),
]
