"""Faults of matrices: what a converter, a quantizer or a checkpoint does to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .changes import Changes
from .fault import Draw, Planned, kind
from .parts import NotApplicableError

_HEADED = r"self_attn\.(q|k|v)_proj"


@kind(listed=True)
def linear_slope(draw: Draw) -> Planned:
    """One Linear is a few per cent too large or too small."""
    name = draw.choice("module", draw.parts.linears)
    factor = draw.choice("factor", (1.05, 0.95))
    module = draw.parts.modules[name]
    return f"{name} × {factor}", [name], lambda c: c.weight(module, lambda w: w * factor)


@kind()
def linear_scale(draw: Draw) -> Planned:
    """One Linear is half as large again."""
    name = draw.choice("module", draw.parts.linears)
    factor = draw.choice("factor", (1.5, 0.5))
    module = draw.parts.modules[name]
    return f"{name} × {factor}", [name], lambda c: c.weight(module, lambda w: w * factor)


@kind()
def bias_added(draw: Draw) -> Planned:
    """A Linear adds a bias that it does not have."""
    name = draw.choice("module", draw.parts.linears)
    size = draw.choice("size", (0.05, 0.2))
    seed = draw.choice("pattern", range(1000))
    module = draw.parts.modules[name]

    def plant(changes: Changes) -> None:
        weight: Tensor = module.weight
        random = torch.Generator().manual_seed(seed)
        # What a row makes of an input of unit size, times ``size``.
        scale = weight.float().norm(dim=-1).mean() * size
        bias = scale * torch.randn(len(weight), generator=random)
        known = getattr(module, "bias", None)
        if isinstance(known, Tensor):
            bias = bias + known
        dtype = weight.dtype if known is None else known.dtype
        changes.parameter(module, "bias", bias.to(dtype))

    return f"{name} has a bias of {size} of its outputs", [name], plant


@kind()
def channel_negated(draw: Draw) -> Planned:
    """One output channel of a Linear has the other sign."""
    name = draw.choice("module", draw.parts.linears)
    module = draw.parts.modules[name]
    row = draw.choice("channel", range(module.out_features))

    def change(weight: Tensor) -> Tensor:
        weight[row] *= -1
        return weight

    return f"channel {row} of {name} is negated", [name], lambda c: c.weight(module, change)


@kind()
def channels_swapped(draw: Draw) -> Planned:
    """Two output channels of a Linear are swapped."""
    name = draw.choice("module", draw.parts.linears)
    module = draw.parts.modules[name]
    one, other = draw.two("channel", module.out_features)
    sentence = f"channels {one} and {other} of {name} are swapped"
    return sentence, [name], lambda c: c.weight(module, lambda w: _swapped(w, [one], [other]))


@kind()
def heads_swapped(draw: Draw) -> Planned:
    """Two heads of the queries, keys or values of a layer are swapped."""
    name, module = draw.module(_HEADED)
    name = draw.choice("module", draw.parts.inside(draw.options["layer"], _HEADED))
    module = draw.parts.modules[name]
    heads = draw.parts.heads if name.endswith("q_proj") else draw.parts.kv_heads
    if heads < 2:
        raise NotApplicableError("keys and values have one head")
    width = module.out_features // heads
    one, other = draw.two("head", heads)
    first, second = (list(range(h * width, (h + 1) * width)) for h in (one, other))
    sentence = f"heads {one} and {other} of {name} are swapped"
    return sentence, [name], lambda c: c.weight(module, lambda w: _swapped(w, first, second))


@kind(listed=True)
def head_dead(draw: Draw) -> Planned:
    """One head's output never reaches the residual stream."""
    name, module = draw.module(r"self_attn\.o_proj")
    head = draw.choice("head", range(draw.parts.heads))
    width = module.in_features // draw.parts.heads

    def change(weight: Tensor) -> Tensor:
        weight[:, head * width : (head + 1) * width] = 0
        return weight

    return f"head {head} of {name} is dead", [name], lambda c: c.weight(module, change)


@kind()
def layer_stale(draw: Draw) -> Planned:
    """A layer's weights are of an earlier checkpoint: all a few per cent off."""
    layer = draw.layer()
    size = draw.choice("size", (0.05, 0.1))
    seed = draw.choice("pattern", range(1000))
    prefix = draw.parts.layer_names[layer]
    names = [name for name in draw.parts.linears if name.startswith(prefix + ".")]

    def plant(changes: Changes) -> None:
        random = torch.Generator().manual_seed(seed)

        def change(weight: Tensor) -> Tensor:
            noise = torch.randn(weight.shape, generator=random)
            return weight + size * weight.std() * noise

        for name in names:
            changes.weight(draw.parts.modules[name], change)

    return f"{prefix} is of an earlier checkpoint, {size} off", [prefix], plant


@kind()
def layer_repeated(draw: Draw) -> Planned:
    """A layer has the weights of the one before."""
    layer = draw.choice("layer", list(draw.parts.layers)[1:])
    prefix = draw.parts.layer_names[layer]
    before = draw.parts.layer_names[layer - 1]
    names = [name for name in draw.parts.linears if name.startswith(prefix + ".")]

    def plant(changes: Changes) -> None:
        planted = 0
        for name in names:
            module = draw.parts.modules[name]
            other = draw.parts.modules.get(name.replace(prefix, before, 1))
            if other is not None and other.weight.shape == module.weight.shape:
                weight = other.weight.detach().float().clone()
                changes.weight(module, lambda w, weight=weight: weight)
                planted += 1
        if not planted:
            raise NotApplicableError("the two layers are of other shapes")

    return f"{prefix} has the weights of {before}", [prefix], plant


@kind()
def matrix_transposed(draw: Draw) -> Planned:
    """A square matrix is stored transposed."""
    modules = draw.parts.modules
    square = [n for n in draw.parts.linears if modules[n].in_features == modules[n].out_features]
    name = draw.choice("module", draw.parts.needed("square matrix", square))
    module = modules[name]
    return f"{name} is transposed", [name], lambda c: c.weight(module, lambda w: w.T.contiguous())


@kind()
def group_scale(draw: Draw) -> Planned:
    """One group of inputs has another scale, as one wrong entry of a quantizer's scales gives."""
    name = draw.choice("module", draw.parts.linears)
    module = draw.parts.modules[name]
    width = min(32, module.in_features)
    group = draw.choice("group", range(module.in_features // width))
    factor = draw.choice("factor", (1.5, 0.5))

    def change(weight: Tensor) -> Tensor:
        weight[:, group * width : (group + 1) * width] *= factor
        return weight

    sentence = f"group {group} of {width} inputs of {name} × {factor}"
    return sentence, [name], lambda c: c.weight(module, change)


@kind()
def outliers_clipped(draw: Draw) -> Planned:
    """The largest weights of a matrix are clipped."""
    name = draw.choice("module", draw.parts.linears)
    module = draw.parts.modules[name]
    limit = draw.choice("deviations", (1.5, 2.0))

    def change(weight: Tensor) -> Tensor:
        bound = limit * float(weight.std())
        return weight.clamp(-bound, bound)

    sentence = f"{name} is clipped at {limit} standard deviations"
    return sentence, [name], lambda c: c.weight(module, change)


@kind()
def inputs_permuted(draw: Draw) -> Planned:
    """The columns of a matrix are in another order than its inputs, as a lost act-order gives."""
    name = draw.choice("module", draw.parts.linears)
    module: nn.Module = draw.parts.modules[name]
    seed = draw.choice("pattern", range(1000))

    def change(weight: Tensor) -> Tensor:
        order = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(seed))
        return weight[:, order]

    return f"the inputs of {name} are permuted", [name], lambda c: c.weight(module, change)


def _swapped(weight: Tensor, first: list[int], second: list[int]) -> Tensor:
    weight[first + second] = weight[second + first]
    return weight
