"""Smoothing: scaling the features between two layers, which changes no output before rounding.

A smoothing group is the producer of an activation, a norm or a linear layer, and all the linear
layers that consume it. For positive scales s, one a feature:
    producer's outputs / s   (norm weight and bias, or rows of the linear weight and its bias)
    consumers' columns · s
W·diag(s) rounds differently from W, and x/s from x: what AWQ and SmoothQuant each make use of.

Contract. `smooth` preserves the function up to the rounding of weights (exactly for powers of two)
or raises before anything is changed. `smoothing_groups` finds groups by running a block: layers
whose input *is* a norm's output, and the pairs named below; then each is tried on a copy, and one
whose smoothing changes the block's output, since something else reads the activation (the router
and the experts of a mixture), is left out.

Norms: y = n(x)·weight (+ bias), and Gemma's y = n(x)·(1 + weight).
Left out: experts, v_proj → o_proj where several query heads share a value
head, and smoothing between blocks.

Source: Xiao et al. 2022, "SmoothQuant", section 4; Lin et al. 2023, "AWQ", section 3.2.
Legend: K features of the activation.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..weight_matrices import WeightMatrix, layer_matrix
from .checks import naming, require_finite
from .layerwise import CalibratedModule, Call

# Of the Llama family: nothing but an element-wise product, or attention's weighted sum over
# tokens, lies between the two. (The activation function is on gate_proj's side.)
LINEAR_PAIRS = (("self_attn.v_proj", "self_attn.o_proj"), ("mlp.up_proj", "mlp.down_proj"))


@dataclass(frozen=True)
class SmoothingGroup:
    """Paths within a block: who makes an activation, and everyone who reads it."""

    producer: str
    consumers: tuple[str, ...]


@torch.no_grad()
def smooth(
    producer: nn.Module, consumers: Sequence[nn.Linear | WeightMatrix], scales: Tensor
) -> None:
    """Divides the producer's outputs by scales [K] and multiplies the consumers' columns by them.

    Raises:
        ValueError: a shape does not fit, a scale is not finite and positive, the producer is
            neither a linear layer nor a norm as above, or a weight leaves the range of its dtype.
    """
    scales = scales.double()
    require_finite(scales, "scales")
    if scales.ndim != 1 or not bool((scales > 0).all()):
        raise ValueError("scales must be positive, one for each feature; clamp them from below")
    changes = _divided(producer, scales)
    for consumer in dict.fromkeys(consumers):
        if consumer.in_features != len(scales):
            raise ValueError(
                f"a consumer takes {consumer.in_features} features, there are {len(scales)} scales"
            )
        changes.append((consumer.weight, consumer.weight.double() * scales))
    for parameter, value in changes:
        require_finite(value.to(parameter.dtype), "the smoothed weight")
    for parameter, value in changes:
        parameter.copy_(value)


def smooth_group(block: CalibratedModule, group: SmoothingGroup, scales: Tensor) -> None:
    """`smooth` for a group of a block."""
    consumers = [block.layer(name) for name in group.consumers]
    with naming(group.producer):
        smooth(block.module.get_submodule(group.producer), consumers, scales)


def _divided(producer: nn.Module, scales: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The producer's parameters with their new values, float64."""
    weight, bias = getattr(producer, "weight", None), getattr(producer, "bias", None)
    if not isinstance(weight, nn.Parameter) or weight.shape[0] != len(scales):
        shape = tuple(weight.shape) if isinstance(weight, Tensor) else None
        raise ValueError(
            f"{type(producer).__name__} has a weight of shape {shape}; {len(scales)} scales need "
            "a producer of as many features"
        )
    if isinstance(producer, nn.Linear):
        changes: list[tuple[Tensor, Tensor]] = [(weight, weight.double() / scales[:, None])]
    else:
        offset = _norm_offset(producer, weight)
        changes = [(weight, (weight.double() + offset) / scales - offset)]
    if isinstance(bias, nn.Parameter):
        changes.append((bias, bias.double() / scales))
    return changes


def _norm_offset(norm: nn.Module, weight: Tensor) -> float:
    """0 for a norm that multiplies by its weight, 1 for one that multiplies by 1 + weight."""
    if weight.ndim == 1 and not list(norm.children()):
        probe = copy.deepcopy(norm)
        x = torch.linspace(-1, 1, len(weight), dtype=weight.dtype, device=weight.device)[None]
        for offset in (0.0, 1.0):
            for name, parameter in probe.named_parameters():
                parameter.fill_(-offset if name == "weight" else 0.0)
            if not bool(probe(x).any()):
                return offset
    raise ValueError(
        f"{type(norm).__name__} is no norm that multiplies by its weight, or by 1 + weight; "
        "its outputs cannot be scaled"
    )


@torch.no_grad()
def smoothing_groups(block: CalibratedModule) -> list[SmoothingGroup]:
    """The groups of a decoder block.

    Raises:
        ValueError: there is no norm whose output linear layers alone read.
    """
    groups = [group for group in _after_norms(block) if _preserves(block, group)]
    if not groups:
        raise ValueError(
            f"{type(block.module).__name__}: no norm whose output linear layers alone read, so "
            "there is nothing to smooth; use gptq or rtn for this architecture"
        )
    pairs = (SmoothingGroup(producer, (consumer,)) for producer, consumer in LINEAR_PAIRS)
    return groups + [pair for pair in pairs if _fits(block, pair) and _preserves(block, pair)]


def _after_norms(block: CalibratedModule) -> list[SmoothingGroup]:
    made: list[tuple[str, Tensor]] = []
    read: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name, module in block.module.named_modules():
            weight = getattr(module, "weight", None)
            if layer_matrix(module) is not None:
                handle = module.register_forward_pre_hook(
                    lambda _, inputs, name=name: read.update({name: inputs[0]})
                )
            elif isinstance(weight, nn.Parameter) and weight.ndim == 1:
                handle = module.register_forward_hook(
                    lambda _, __, output, name=name: made.append((name, output))
                )
            else:
                continue
            hooks.callback(handle.remove)
        block.run(block.calls[0])
    groups = []
    for producer, output in made:
        consumers = tuple(name for name, inputs in read.items() if inputs is output)
        if consumers:
            groups.append(SmoothingGroup(producer, consumers))
    return groups


def _fits(block: CalibratedModule, pair: SmoothingGroup) -> bool:
    modules = dict(block.module.named_modules())
    producer, consumer = modules.get(pair.producer), modules.get(pair.consumers[0])
    return (
        isinstance(producer, nn.Linear)
        and isinstance(consumer, nn.Linear)
        and producer.out_features == consumer.in_features
    )


def _preserves(block: CalibratedModule, group: SmoothingGroup) -> bool:
    """Whether smoothing a float32 copy by 2 and 1/2 leaves what the block adds as it was."""
    arguments, keywords = block.calls[0].arguments, block.calls[0].keywords
    wide = {key: _float32(value) for key, value in keywords.items()}
    call = Call(_float32(arguments), wide, None)
    trial = CalibratedModule(copy.deepcopy(block.module).float(), [call])
    before = trial.run(call)
    features = trial.layer(group.consumers[0]).in_features
    scales = torch.full((features,), 2.0, device=before.device)
    scales[1::2] = 0.5
    smooth_group(trial, group, scales)
    change, added = (trial.run(call) - before).norm(), (before - call.arguments[0]).norm()
    # A reader left out changes its part by half or more; rounding stays far below the root of eps.
    return bool(change <= torch.finfo(torch.float32).eps ** 0.5 * added)


def _float32(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_float32(item) for item in value)
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.float()
    return value
