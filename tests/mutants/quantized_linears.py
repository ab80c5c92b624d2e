"""Small quantized layers that are right, and the same with faults.

Legend: T tokens, M output features, K input features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import activation_quantizers
import torch
from activation_quantizers import SmallActivations
from infopt_reference.quantization import QuantizationScheme, preset, quantize
from torch import Tensor, nn
from torch.nn import functional

AREA = "1 quantized linear layers"


class SmallLinear:
    """The weight is decoded in each call."""

    def __init__(self, linear: nn.Linear, scheme: QuantizationScheme) -> None:
        self.weight = quantize(linear.weight.detach(), scheme)
        self.bias = linear.bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        return self.added(self.product(x))

    def product(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.dequantize(x.dtype))

    def added(self, product: Tensor) -> Tensor:
        return product + self.bias

    def fused(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.dequantize(x.dtype), self.bias)


class SmallInt8(SmallLinear):
    """Both factors in 8 bit: each token by its absmax, each output feature by its own."""

    activations: type[SmallActivations] = SmallActivations

    def __init__(self, linear: nn.Linear, scheme: QuantizationScheme) -> None:
        super().__init__(linear, scheme)
        self.rounds = self.activations(preset("int8"))

    def product(self, x: Tensor) -> Tensor:
        rounded = self.rounds(x.double()).double()
        return functional.linear(rounded, self.weight.dequantize(torch.float64)).to(x.dtype)


class SmallOutliers(SmallInt8):
    """Features of 6 and more, in any token of the call, are not rounded."""

    def product(self, x: Tensor) -> Tensor:
        large = self.large(x)
        rest = super().product(x.masked_fill(large, 0))
        return rest + functional.linear(x * large, self.weight.dequantize(x.dtype))

    def large(self, x: Tensor) -> Tensor:
        """[K]"""
        return (x.abs() >= 6).flatten(0, -2).any(dim=0)


class BiasForgotten(SmallLinear):
    """Not listed: no bias."""

    def added(self, product: Tensor) -> Tensor:
        return product


class BiasRounded(SmallLinear):
    """Not listed: the bias in 8 bit with the weight's scale."""

    def added(self, product: Tensor) -> Tensor:
        return product + (self.bias * 8).round() / 8


class OneScaleForAllTokens(SmallInt8):
    """Not listed: the largest token decides for all."""

    activations = activation_quantizers.OneScaleForAllTokens


class ScaleOfTheFirstToken(SmallInt8):
    """Not listed: tokens beyond it are clipped, or too coarse."""

    activations = activation_quantizers.ScaleOfTheFirstToken


class ZerosDivide(SmallInt8):
    """Not listed: 0/0 for a token of zeros."""

    activations = activation_quantizers.ZerosDivide


class FirstScalesKept(SmallInt8):
    """Not listed: activations are calibrated by the first call."""

    activations = activation_quantizers.FirstScalesKept


class OutliersOfTheFirstBatch(SmallOutliers):
    """Not listed: which features are large is decided once."""

    kept: Tensor | None = None

    def large(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = super().large(x)
        return self.kept


class OutputsForEver(SmallLinear):
    """Not listed: a cache by shape."""

    def __init__(self, linear: nn.Linear, scheme: QuantizationScheme) -> None:
        super().__init__(linear, scheme)
        self.results: dict[torch.Size, Tensor] = {}

    def product(self, x: Tensor) -> Tensor:
        return self.results.setdefault(x.shape, super().product(x))


class HalfSums(SmallLinear):
    """Not listed: parts of a sum are kept in the dtype of the inputs."""

    def product(self, x: Tensor) -> Tensor:
        weight = self.weight.dequantize(x.dtype)
        parts = zip(x.split(64, dim=-1), weight.split(64, dim=-1), strict=True)
        total = torch.zeros(*x.shape[:-1], weight.shape[0], dtype=x.dtype)
        for inputs, columns in parts:
            total += functional.linear(inputs, columns)
        return total


class ScaledAfterHalf(SmallInt8):
    """Not listed: sums of codes leave float16 before they are scaled."""

    def product(self, x: Tensor) -> Tensor:
        scales = x.float().abs().amax(dim=-1, keepdim=True) / 127
        codes = (x.float() / scales.where(scales > 0, 1.0)).round()
        first = codes.shape[-1] // 2
        weight = self.weight.unpacked_codes().float()
        parts = (codes[..., :first] @ weight[:, :first].T, codes[..., first:] @ weight[:, first:].T)
        sums = sum(part.to(x.dtype) for part in parts)
        assert isinstance(sums, Tensor)
        return (sums.float() * scales * self.weight.scales.view(-1)).to(x.dtype)


class SingleTokenOfAnotherScheme(SmallLinear):
    """Not listed: the kernel for one token decodes as if there were one bit less."""

    def product(self, x: Tensor) -> Tensor:
        found = super().product(x)
        return found * 2 if x.numel() == x.shape[-1] else found


class SingleTokenUnscaled(SmallInt8):
    """Not listed: one token has the fixed scale 1/16."""

    activations = activation_quantizers.SingleTokenUnscaled


class FirstSequenceOnly(SmallLinear):
    """Not listed: of several sequences the first is computed."""

    def product(self, x: Tensor) -> Tensor:
        found = super().product(x)
        return found[:1].expand_as(found) if x.ndim == 3 else found


class AxesMixed(SmallLinear):
    """Not listed: a batch is flattened the other way round."""

    def product(self, x: Tensor) -> Tensor:
        if x.ndim < 3:
            return super().product(x)
        found = super().product(x.transpose(0, 1).reshape(-1, x.shape[-1]))
        return found.view(*x.shape[:-1], -1)


class InputScaledInPlace(SmallInt8):
    """Not listed: the inputs are divided where they lie."""

    def product(self, x: Tensor) -> Tensor:
        found = super().product(x)
        x.div_(2)
        return found


class Float32Result(SmallLinear):
    """Not listed: float32 throughout."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x).float()


class FusedWithoutBias(SmallLinear):
    """Not listed: the fused kernel leaves the bias to somebody else."""

    def fused(self, x: Tensor) -> Tensor:
        return self.product(x)


class FusedWithOtherScales(SmallLinear):
    """Not listed: the fused kernel reads the scale of the feature beside."""

    def fused(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.dequantize(x.dtype).roll(1, 0), self.bias)


INT8 = (preset("int8"),)
SOUND: dict[type[SmallLinear], dict[str, Any]] = {
    SmallOutliers: {
        "schemes": INT8,
        "activation_bits": 8,
        "capabilities": {"outliers"},
    },
    SmallInt8: {"schemes": INT8, "activation_bits": 8},
    SmallLinear: {"capabilities": {"fused"}},
}


@dataclass(frozen=True)
class LinearMutant:
    """``fault`` must break the property; what it derives from must keep it."""

    fault: type[SmallLinear]
    broken: str

    @property
    def attributes(self) -> dict[str, Any]:
        return next(dict(SOUND[sound]) for sound in SOUND if issubclass(self.fault, sound))


BOUND = "test_outputs_are_within_the_bound_of_both_roundings"
REMEMBERED = "test_nothing_is_remembered_from_earlier_batches"
ALONE = "test_a_token_alone_is_what_it_is_in_a_batch"
AXES = "test_leading_axes_do_not_matter"
LONG = "test_long_sums_do_not_overflow"
FUSED = "test_the_fused_kernel_computes_the_same"

LINEAR_MUTANTS = [
    LinearMutant(BiasForgotten, BOUND),
    LinearMutant(BiasForgotten, "test_tokens_of_zeros_give_the_bias"),
    LinearMutant(BiasRounded, "test_tokens_of_zeros_give_the_bias"),
    LinearMutant(OneScaleForAllTokens, BOUND),
    LinearMutant(OneScaleForAllTokens, ALONE),
    LinearMutant(ScaleOfTheFirstToken, BOUND),
    LinearMutant(ZerosDivide, "test_tokens_of_zeros_give_the_bias"),
    LinearMutant(FirstScalesKept, REMEMBERED),
    LinearMutant(OutliersOfTheFirstBatch, REMEMBERED),
    LinearMutant(OutputsForEver, REMEMBERED),
    LinearMutant(HalfSums, LONG),
    LinearMutant(ScaledAfterHalf, LONG),
    LinearMutant(SingleTokenOfAnotherScheme, ALONE),
    LinearMutant(SingleTokenUnscaled, ALONE),
    LinearMutant(FirstSequenceOnly, AXES),
    LinearMutant(AxesMixed, AXES),
    LinearMutant(InputScaledInPlace, BOUND),
    LinearMutant(Float32Result, BOUND),
    LinearMutant(FusedWithoutBias, FUSED),
    LinearMutant(FusedWithOtherScales, FUSED),
]
