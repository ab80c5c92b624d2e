"""How the linear layers of a model are quantized: one class a method, its options as fields.

    rtn          every weight to the nearest level of its grid
    llm-int8     the same in int8, activations too, but for outlier features
    gptq, awq    weights, with calibration
    smoothquant  weights and activations in int8, with calibration

A further method is a class here and its name in `METHODS`. One that is calibrated has
``quantize(block, layers, scheme)``: it replaces layers that calibration reaches, given by their
paths within the block, in place; where ``block`` is no decoder block all else in it must stay as it
is. Where it has ``expert(weight, hessian, scheme)``, experts that calibration reaches are quantized
by that. The others have ``layer(weight, bias)``, which makes the layer that takes a linear one's
place.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ..weight_matrices import WeightMatrix
from .awq import STEPS, clip_weights, search_awq_scales
from .calibration import ActivationStatistics, HessianStatistics
from .checks import naming, unknown_name
from .gptq import BLOCK_SIZE, DAMPING, gptq
from .layerwise import CalibratedModule
from .linear import QuantizedLinear
from .llm_int8 import THRESHOLD, LLMInt8Linear
from .quantized import QuantizedTensor, quantize
from .scheme import QuantizationScheme
from .smoothing import SmoothingGroup, smooth_group, smoothing_groups
from .smoothquant import ALPHA, smoothquant_scales

Layers = Mapping[str, WeightMatrix]


@dataclass(frozen=True)
class RoundToNearest:
    """`quantize`, layer by layer."""

    calibrated: ClassVar[bool] = False

    def layer(self, weight: QuantizedTensor, bias: nn.Parameter | None) -> QuantizedLinear:
        return QuantizedLinear(weight, bias)


@dataclass(frozen=True)
class LLMInt8:
    """`llm_int8`; ``threshold`` tells outlier features."""

    threshold: float = THRESHOLD
    calibrated: ClassVar[bool] = False

    def layer(self, weight: QuantizedTensor, bias: nn.Parameter | None) -> QuantizedLinear:
        return LLMInt8Linear(weight, bias, threshold=self.threshold)


@dataclass(frozen=True)
class GPTQ:
    """`gptq`, with its options.

    ``true_sequential`` takes the layers of a block in the order in which they run, each calibrated
    behind the quantized ones before it, for about twice the time.
    """

    damping: float = DAMPING
    block_size: int = BLOCK_SIZE
    act_order: bool = False
    static_groups: bool = False
    row_fallback: bool = False
    true_sequential: bool = True
    calibrated: ClassVar[bool] = True

    def quantize(self, block: CalibratedModule, layers: Layers, scheme: QuantizationScheme) -> None:
        names = list(layers)
        for step in block.input_groups(names) if self.true_sequential else [tuple(names)]:
            statistics = _gather(block, step, HessianStatistics)
            for name in step:
                with naming(name):
                    weight = layers[name].weight
                    quantized = self.expert(weight, statistics[name].hessian, scheme)
                _replace(block, name, QuantizedLinear(quantized, layers[name].bias))

    def expert(
        self, weight: Tensor, hessian: Tensor, scheme: QuantizationScheme
    ) -> QuantizedTensor:
        return gptq(
            weight,
            hessian,
            scheme,
            damping=self.damping,
            block_size=self.block_size,
            act_order=self.act_order,
            static_groups=self.static_groups,
            row_fallback=self.row_fallback,
        )


@dataclass(frozen=True)
class AWQ:
    """`awq`: scales searched in ``steps`` for every smoothing group; ``clip`` searches clamps."""

    steps: int = STEPS
    clip: bool = True
    calibrated: ClassVar[bool] = True

    def quantize(self, block: CalibratedModule, layers: Layers, scheme: QuantizationScheme) -> None:
        groups = smoothing_groups(block) if block.is_decoder_block else []
        statistics = _gather(block, _readers(groups, layers), _MomentsAndMagnitudes)
        hessians = {name: statistics[name].moments.hessian for name in layers}
        for group in groups:
            targets = [name for name in group.consumers if name in layers]
            if targets:
                best = search_awq_scales(
                    [layers[name].weight for name in targets],
                    statistics[targets[0]].magnitudes.mean_abs,
                    hessians[targets[0]],
                    scheme,
                    steps=self.steps,
                )
                smooth_group(block, group, best.scales)
                for name in targets:  # they are given x / s from now on
                    hessians[name] = hessians[name] / torch.outer(best.scales, best.scales)
        for name, layer in layers.items():
            with naming(name):
                quantized = self.expert(layer.weight.detach(), hessians[name], scheme)
            _replace(block, name, QuantizedLinear(quantized, layer.bias))

    def expert(
        self, weight: Tensor, hessian: Tensor, scheme: QuantizationScheme
    ) -> QuantizedTensor:
        return quantize(clip_weights(weight, hessian, scheme) if self.clip else weight, scheme)


@dataclass(frozen=True)
class SmoothQuant:
    """`smoothquant`: ``alpha`` of the difficulty moves to the weights; then int8 times int8."""

    alpha: float = ALPHA
    calibrated: ClassVar[bool] = True

    def quantize(self, block: CalibratedModule, layers: Layers, scheme: QuantizationScheme) -> None:
        groups = smoothing_groups(block) if block.is_decoder_block else []
        statistics = _gather(block, _readers(groups, layers), ActivationStatistics)
        for group in groups:
            weights = [block.layer(name).weight for name in group.consumers]
            max_abs = statistics[group.consumers[0]].max_abs
            smooth_group(block, group, smoothquant_scales(weights, max_abs, alpha=self.alpha))
        for name, layer in layers.items():
            with naming(name):
                weight = quantize(layer.weight, scheme)
                quantized = LLMInt8Linear(weight, layer.bias, threshold=math.inf)
            _replace(block, name, quantized)


Method = RoundToNearest | LLMInt8 | GPTQ | AWQ | SmoothQuant

METHODS: dict[str, type[Method]] = {
    "rtn": RoundToNearest,
    "llm-int8": LLMInt8,
    "gptq": GPTQ,
    "awq": AWQ,
    "smoothquant": SmoothQuant,
}


def quantization_method(name: str, **options: Any) -> Method:
    """The named method of `METHODS` with its options.

    Raises:
        ValueError: there is no such method, or it has no such option.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    known = [field.name for field in fields(METHODS[name])]
    for option in options:
        if option not in known:
            raise ValueError(
                f"method {name!r} has no option {option!r}; it has: {', '.join(known) or 'none'}"
            )
    return METHODS[name](**options)


class _MomentsAndMagnitudes:
    """Both statistics of one pass."""

    def __init__(self, features: int, device: torch.device | str | None = None) -> None:
        self.moments = HessianStatistics(features, device)
        self.magnitudes = ActivationStatistics(features, device)

    def observe(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        self.moments.observe(inputs, mask)
        self.magnitudes.observe(inputs, mask)


_S = TypeVar("_S", HessianStatistics, ActivationStatistics, _MomentsAndMagnitudes)


def _gather(block: CalibratedModule, names: Iterable[str], kind: type[_S]) -> dict[str, _S]:
    """Statistics of the named layers' inputs; layers given the same tensor share them."""
    groups = block.input_groups(names)
    statistics: dict[str, _S] = {}
    for group in groups:
        layer = block.layer(group[0])
        statistics[group[0]] = kind(layer.in_features, layer.weight.device)
    block.observe(statistics)
    return {name: statistics[group[0]] for group in groups for name in group}


def _readers(groups: Iterable[SmoothingGroup], layers: Layers) -> list[str]:
    """Names of all layers whose inputs matter: those to quantize and those to compensate."""
    return list(dict.fromkeys([*layers, *(name for g in groups for name in g.consumers)]))


def _replace(block: CalibratedModule, name: str, quantized: QuantizedLinear) -> None:
    training = block.module.get_submodule(name).training
    block.module.set_submodule(name, quantized.train(training))
