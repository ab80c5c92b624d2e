"""Sound variants: other ways to the same numbers, which no gate may accuse.

Each changes a candidate of plain floats by what a converter, a serving stack or a refactoring does.
What they change is rounding at most. Legend: B rows, T positions, H heads, D width of a head.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from tiny_models import cache_in
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .changes import Changes
from .fault import Draw, Planned, kind
from .parts import NotApplicableError, Parts
from .sound_modules import (
    ByPositions,
    ByRows,
    FusedGateUp,
    HalvesOfInputs,
    HalvesOfOutputs,
    Head,
    PartOf,
    RenamedMlp,
    RmsNorm,
    Wrapper,
    ZeroAdapter,
)

sound = partial(kind, sound=True)
_MLP, _ATTENTION = r"mlp", r"self_attn"


def _plain(draw: Draw, layer: int, *patterns: str) -> list[nn.Linear]:
    """One linear layer with floats for each pattern; NotApplicableError where one is missing."""
    found = [draw.parts.modules[draw.parts.of_layer(layer, p)] for p in patterns]
    linear = [module for module in found if type(module) is nn.Linear]
    if len(linear) < len(found):
        raise NotApplicableError("weights are codes, or no linear layers")
    return linear


def _every_layer(draw: Draw, sentence: str, change: Callable[[Changes, int], None]) -> Planned:
    """The same in each layer that has what it takes."""

    def plant(changes: Changes) -> None:
        done = 0
        for layer in draw.parts.layers:
            try:
                change(changes, layer)
                done += 1
            except NotApplicableError:
                continue
        if not done:
            raise NotApplicableError(f"no layer can have {sentence}")

    return sentence, [], plant


def _replaced(changes: Changes, parts: Parts, name: str, make: Callable[[Any], nn.Module]) -> None:
    """Put what ``make`` makes of a module in its place."""
    parent, _, child = name.rpartition(".")
    changes.submodule(parts.modules[parent], child, make(parts.modules[name]).eval())


def _every_linear(draw: Draw, sentence: str, make: Callable[[nn.Linear], nn.Module]) -> Planned:
    names = [n for n in draw.parts.linears if type(draw.parts.modules[n]) is nn.Linear]
    draw.parts.needed("linear layers of floats", names)

    def plant(changes: Changes) -> None:
        for name in names:
            _replaced(changes, draw.parts, name, make)

    return sentence, [], plant


@sound()
def clean(draw: Draw) -> Planned:
    """The candidate as it was loaded."""
    return "nothing is changed", [], lambda changes: None


# Logits


@sound()
def constant_added_to_logits(draw: Draw) -> Planned:
    """A constant is added to all logits."""
    size = draw.choice("size", (3.0, -8.0))

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = output.logits + size
        return output

    return f"all logits {size:+}", [], lambda changes: changes.forward(draw.parts.model, around)


@sound()
def logits_normalised(draw: Draw) -> Planned:
    """Logits are log-probabilities."""

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = output.logits.float().log_softmax(-1)
        return output

    return "log-probabilities", [], lambda changes: changes.forward(draw.parts.model, around)


@sound()
def logits_in_float32(draw: Draw) -> Planned:
    """The head computes in float32."""

    def plant(changes: Changes) -> None:
        _replaced(changes, draw.parts, draw.parts.head_name, Head)

    return "the head computes in float32", [], plant


@sound()
def head_untied(draw: Draw) -> Planned:
    """The head has a copy of the embedding's weights."""
    head = draw.parts.head
    weight = draw.parts.needed("weight of the head", [getattr(head, "weight", None)])[0]
    sentence = "the head has weights of its own"
    return sentence, [], lambda c: c.parameter(head, "weight", weight.detach().clone())


# Weights with their partners


@sound()
def heads_permuted(draw: Draw) -> Planned:
    """Groups of heads are in another order, with the output projection's columns."""
    groups = draw.parts.kv_heads
    if groups < 2:
        raise NotApplicableError("keys and values have one head")

    def change(changes: Changes, layer: int) -> None:
        patterns = (rf"self_attn\.{name}_proj" for name in "qkvo")
        *rows, output = _plain(draw, layer, *patterns)
        for module in rows:
            changes.assign(
                module.weight.data, module.weight.data.roll(len(module.weight) // groups, 0)
            )
        width = output.in_features // groups
        changes.assign(output.weight.data, output.weight.data.roll(width, 1))

    return _every_layer(draw, "permuted heads", change)


@sound()
def channels_permuted(draw: Draw) -> Planned:
    """Inner channels of MLPs are in another order, with their partners."""
    seed = draw.choice("pattern", range(1000))

    def change(changes: Changes, layer: int) -> None:
        gate, up, down = _plain(draw, layer, r"mlp\.gate_proj", r"mlp\.up_proj", r"mlp\.down_proj")
        order = torch.randperm(len(up.weight), generator=torch.Generator().manual_seed(seed))
        changes.assign(gate.weight.data, gate.weight.data[order])
        changes.assign(up.weight.data, up.weight.data[order])
        changes.assign(down.weight.data, down.weight.data[:, order])

    return _every_layer(draw, "permuted channels", change)


@sound()
def experts_permuted(draw: Draw) -> Planned:
    """Experts are in another order, and the router knows."""

    def change(changes: Changes, layer: int) -> None:
        experts = draw.parts.modules[draw.parts.of_layer(layer, r".*experts")]
        router = draw.parts.modules[draw.parts.of_layer(layer, r"mlp\.(gate|router)")]
        stacks = [getattr(experts, name, None) for name in ("gate_up_proj", "down_proj")]
        if not all(isinstance(stack, nn.Parameter) for stack in stacks):
            raise NotApplicableError("experts are codes")
        bias = getattr(router, "e_score_correction_bias", None)
        for tensor in [*stacks, router.weight, *([] if bias is None else [bias])]:
            assert isinstance(tensor, Tensor)
            changes.assign(tensor.data, tensor.data.roll(1, 0))

    return _every_layer(draw, "permuted experts", change)


def _scaled(changes: Changes, module: nn.Linear, factor: float) -> None:
    changes.assign(module.weight.data, module.weight.data * factor)
    if module.bias is not None:
        changes.assign(module.bias.data, module.bias.data * factor)


def _pair_scaled(draw: Draw, sentence: str, first: str, second: str, factor: float) -> Planned:
    def change(changes: Changes, layer: int) -> None:
        one, other = _plain(draw, layer, first, second)
        _scaled(changes, one, factor)
        changes.assign(other.weight.data, other.weight.data / factor)

    return _every_layer(draw, sentence, change)


@sound()
def values_scaled(draw: Draw) -> Planned:
    """Values are larger by what output projections are smaller."""
    factor = draw.choice("factor", (2.0, 1.7))
    sentence = f"values × {factor}, output projections / {factor}"
    return _pair_scaled(draw, sentence, r"self_attn\.v_proj", r"self_attn\.o_proj", factor)


@sound()
def up_and_down_scaled(draw: Draw) -> Planned:
    """Up projections are larger by what down projections are smaller."""
    factor = draw.choice("factor", (0.5, 1.3))
    sentence = f"up projections × {factor}, down projections / {factor}"
    return _pair_scaled(draw, sentence, r"mlp\.up_proj", r"mlp\.down_proj", factor)


@sound()
def queries_and_keys_scaled(draw: Draw) -> Planned:
    """Queries are larger by what keys are smaller."""
    factor = draw.choice("factor", (2.0, 0.8))
    sentence = f"queries × {factor}, keys / {factor}"
    return _pair_scaled(draw, sentence, r"self_attn\.q_proj", r"self_attn\.k_proj", factor)


@sound()
def scale_folded_into_queries(draw: Draw) -> Planned:
    """Query projections hold the scale of attention."""

    def change(changes: Changes, layer: int) -> None:
        (queries,) = _plain(draw, layer, r"self_attn\.q_proj")
        module = draw.parts.modules[draw.parts.of_layer(layer, _ATTENTION)]
        if getattr(module, "attn_logit_softcapping", None):
            raise NotApplicableError("logits are capped behind the scale")
        _scaled(changes, queries, float(module.scaling))
        changes.attribute(module, "scaling", 1.0)

    return _every_layer(draw, "the scale folded into queries", change)


@sound()
def values_rotated(draw: Draw) -> Planned:
    """Values are rotated within each head, and output projections back."""
    heads, groups = draw.parts.heads, draw.parts.kv_heads

    def change(changes: Changes, layer: int) -> None:
        values, output = _plain(draw, layer, r"self_attn\.v_proj", r"self_attn\.o_proj")
        width = values.out_features // groups
        rotation, _ = torch.linalg.qr(
            torch.randn(width, width, generator=torch.Generator().manual_seed(layer)).double()
        )
        rows = values.weight.double().reshape(groups, width, -1)
        changes.assign(values.weight.data, (rotation @ rows).reshape(values.weight.shape))
        columns = output.weight.double().reshape(-1, heads, width)
        changes.assign(output.weight.data, (columns @ rotation.T).reshape(output.weight.shape))

    return _every_layer(draw, "rotated values", change)


def _fold(changes: Changes, norm: Any, readers: list[nn.Linear]) -> None:
    gemma = "Gemma" in type(norm).__name__  # it multiplies by its weight + 1
    weight = norm.weight.detach().float() + (1 if gemma else 0)
    for module in readers:
        changes.assign(module.weight.data, module.weight.data.float() * weight)
    changes.assign(norm.weight.data, 0.0 if gemma else 1.0)


@sound()
def attention_norms_folded(draw: Draw) -> Planned:
    """Norms before attention are folded into what reads them."""

    def change(changes: Changes, layer: int) -> None:
        readers = _plain(draw, layer, *(rf"self_attn\.{name}_proj" for name in "qkv"))
        norm = draw.parts.modules[draw.parts.of_layer(layer, "input_layernorm")]
        _fold(changes, norm, readers)

    return _every_layer(draw, "folded norms before attention", change)


@sound()
def mlp_norms_folded(draw: Draw) -> Planned:
    """Norms before MLPs are folded into what reads them."""

    def change(changes: Changes, layer: int) -> None:
        readers = _plain(draw, layer, r"mlp\.gate_proj", r"mlp\.up_proj")
        names = draw.parts.inside(layer, "pre_feedforward_layernorm")
        name = names[0] if names else draw.parts.of_layer(layer, "post_attention_layernorm")
        _fold(changes, draw.parts.modules[name], readers)

    return _every_layer(draw, "folded norms before MLPs", change)


@sound()
def last_norm_folded(draw: Draw) -> Planned:
    """The last norm is folded into the head, which is untied for it."""
    name = draw.parts.needed("last norm", [n for n in draw.parts.norms if ".layers." not in n])[-1]
    head = draw.parts.head
    if type(head) is not nn.Linear:
        raise NotApplicableError("the head is no linear layer of floats")

    def plant(changes: Changes) -> None:
        changes.parameter(head, "weight", head.weight.detach().clone())
        _fold(changes, draw.parts.modules[name], [head])

    return f"{name} is folded into the head", [], plant


@sound()
def biases_of_zeros(draw: Draw) -> Planned:
    """Linear layers have biases of zeros."""
    names = [n for n in draw.parts.linears if getattr(draw.parts.modules[n], "bias", 0) is None]
    draw.parts.needed("linear layers without a bias", names)

    def plant(changes: Changes) -> None:
        for name in names:
            weight = draw.parts.modules[name].weight
            zeros = weight.new_zeros(draw.parts.modules[name].out_features)
            changes.parameter(draw.parts.modules[name], "bias", zeros)

    return "biases of zeros", [], plant


# Modules made otherwise


@sound()
def queries_keys_values_fused(draw: Draw) -> Planned:
    """One linear layer computes queries, keys and values."""

    def change(changes: Changes, layer: int) -> None:
        three = _plain(draw, layer, *(rf"self_attn\.{name}_proj" for name in "qkv"))
        attention = draw.parts.modules[draw.parts.of_layer(layer, _ATTENTION)]
        fused = PartOf.fused(three)
        changes.submodule(attention, "qkv_proj", fused)
        edge = 0
        for name, module in zip(("q_proj", "k_proj", "v_proj"), three, strict=True):
            part = PartOf(fused, slice(edge, edge + module.out_features))
            changes.submodule(attention, name, part)
            edge += module.out_features

    return _every_layer(draw, "fused queries, keys and values", change)


def _mlps(draw: Draw, sentence: str, make: Callable[[Any], nn.Module], *parts: str) -> Planned:
    def change(changes: Changes, layer: int) -> None:
        if parts:
            _plain(draw, layer, *parts)
        _replaced(changes, draw.parts, draw.parts.of_layer(layer, _MLP), make)

    return _every_layer(draw, sentence, change)


_PROJECTIONS = (r"mlp\.gate_proj", r"mlp\.up_proj", r"mlp\.down_proj")


@sound()
def gate_and_up_fused(draw: Draw) -> Planned:
    """One linear layer computes gate and up projection."""
    return _mlps(draw, "fused gate and up", FusedGateUp, *_PROJECTIONS)


@sound()
def mlp_renamed(draw: Draw) -> Planned:
    """The MLP is another class whose parts have other names."""
    return _mlps(draw, "MLPs of w1, w2 and w3", RenamedMlp, *_PROJECTIONS)


@sound()
def mlp_wrapped(draw: Draw) -> Planned:
    """The MLP is inside a wrapper."""
    return _mlps(draw, "wrapped MLPs", Wrapper)


@sound()
def mlp_row_by_row(draw: Draw) -> Planned:
    """The MLP computes the rows of a batch one by one."""
    return _mlps(draw, "MLPs row by row", ByRows)


@sound()
def mlp_by_positions(draw: Draw) -> Planned:
    """The MLP computes 16 positions at a time."""
    return _mlps(draw, "MLPs by 16 positions", ByPositions)


@sound()
def attention_wrapped(draw: Draw) -> Planned:
    """Attention is inside a wrapper."""

    def change(changes: Changes, layer: int) -> None:
        _replaced(changes, draw.parts, draw.parts.of_layer(layer, _ATTENTION), Wrapper)

    return _every_layer(draw, "wrapped attention", change)


@sound()
def linears_split_by_outputs(draw: Draw) -> Planned:
    """Each linear layer is two, each with half of the outputs."""
    return _every_linear(draw, "halves of outputs", HalvesOfOutputs)


@sound()
def linears_split_by_inputs(draw: Draw) -> Planned:
    """Each linear layer is the sum of two, each with half of the inputs."""
    return _every_linear(draw, "sums of halves of inputs", HalvesOfInputs)


@sound()
def linears_with_adapter(draw: Draw) -> Planned:
    """Each linear layer has a low-rank adapter that is still zero."""
    return _every_linear(draw, "adapters of zeros", ZeroAdapter)


@sound()
def linears_transposed(draw: Draw) -> Planned:
    """Linear layers keep their weights inputs first."""

    def make(linear: nn.Linear) -> nn.Module:
        module = Conv1D(linear.out_features, linear.in_features).to(linear.weight.dtype)
        module.weight = nn.Parameter(linear.weight.detach().T.contiguous(), requires_grad=False)
        bias = torch.zeros(linear.out_features, dtype=linear.weight.dtype)
        bias = bias if linear.bias is None else linear.bias.detach()
        module.bias = nn.Parameter(bias, requires_grad=False)
        return module

    return _every_linear(draw, "weights that lie inputs first", make)


@sound()
def weights_in_other_strides(draw: Draw) -> Planned:
    """Weights lie column by column in memory."""

    def plant(changes: Changes) -> None:
        for name in draw.parts.linears:
            module = draw.parts.modules[name]
            if type(module) is nn.Linear:
                changes.parameter(module, "weight", module.weight.detach().T.contiguous().T)

    return "weights column by column", [], plant


@sound()
def norms_of_another_kernel(draw: Draw) -> Planned:
    """Norms are torch's own function."""
    known = [
        n for n in draw.parts.norms if type(draw.parts.modules[n]).__name__.endswith("RMSNorm")
    ]
    draw.parts.needed("RMS norms", known)

    def plant(changes: Changes) -> None:
        for name in known:
            _replaced(changes, draw.parts, name, RmsNorm)

    return "torch's own norms", [], plant


@sound()
def layers_copied(draw: Draw) -> Planned:
    """Every layer is a copy in other memory."""
    names = draw.parts.layer_names

    def plant(changes: Changes) -> None:
        for name in names:
            _replaced(changes, draw.parts, name, copy.deepcopy)

    return "copied layers", [], plant


# How it runs


@sound()
def eager_attention(draw: Draw) -> Planned:
    """Attention is eager."""
    model = draw.parts.model

    def plant(changes: Changes) -> None:
        changes.callback(model.set_attn_implementation, model.config._attn_implementation)
        model.set_attn_implementation("eager")

    return "eager attention", [], plant


def _within(draw: Draw, sentence: str, context: Callable[[], Any]) -> Planned:
    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        with context():
            return forward(*args, **kwargs)

    return sentence, [], lambda changes: changes.forward(draw.parts.model, around)


@sound()
def attention_without_kernel(draw: Draw) -> Planned:
    """Scaled-dot-product attention is computed by plain products."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return _within(draw, "attention by plain products", lambda: sdpa_kernel(SDPBackend.MATH))


@sound()
def products_of_another_library(draw: Draw) -> Planned:
    """Matrix products are not made by oneDNN."""
    return _within(draw, "products without oneDNN", _without_onednn)


@contextmanager
def _without_onednn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TF32, which is not asked for
        with torch.backends.mkldnn.flags(enabled=False):
            yield


@sound()
def two_threads(draw: Draw) -> Planned:
    """A pass has another number of threads."""

    def plant(changes: Changes) -> None:
        changes.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(3 - min(2, torch.get_num_threads()))

    return "another number of threads", [], plant


@sound()
def inference_mode(draw: Draw) -> Planned:
    """Passes are made in inference mode."""
    return _within(draw, "inference mode", torch.inference_mode)


@sound()
def training_mode_without_dropout(draw: Draw) -> Planned:
    """The model is in training mode, and drops nothing."""

    def plant(changes: Changes) -> None:
        for module in draw.parts.modules.values():
            changes.attribute(module, "training", True)

    return "training mode", [], plant


@sound()
def mask_of_ones_dropped(draw: Draw) -> Planned:
    """A mask that masks nothing is not passed on."""

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 2 and bool(mask.all()):
            kwargs["attention_mask"] = None
        return forward(*args, **kwargs)

    sentence = "masks of ones are dropped"
    return sentence, [], lambda changes: changes.forward(draw.parts.model, around)


@sound()
def mask_of_ones_made(draw: Draw) -> Planned:
    """A mask is made where none is passed."""

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        ids, cache = kwargs.get("input_ids"), cache_in(kwargs)
        if ids is not None and kwargs.get("attention_mask") is None:
            past = 0 if cache is None else int(cache.get_seq_length())
            kwargs["attention_mask"] = ids.new_ones(len(ids), past + ids.shape[1])
        return forward(*args, **kwargs)

    return "masks of ones are made", [], lambda c: c.forward(draw.parts.model, around)


@sound()
def positions_made(draw: Draw) -> Planned:
    """Positions are worked out from the mask, whoever asks."""

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        mask, cache = kwargs.get("attention_mask"), cache_in(kwargs)
        ids = kwargs.get("input_ids")
        if ids is not None and kwargs.get("position_ids") is None and mask is None:
            past = 0 if cache is None else int(cache.get_seq_length())
            kwargs["position_ids"] = torch.arange(past, past + ids.shape[1])[None]
        return forward(*args, **kwargs)

    return "positions are passed", [], lambda c: c.forward(draw.parts.model, around)


@sound()
def cache_in_other_strides(draw: Draw) -> Planned:
    """Keys and values lie position by position, the heads of each side by side."""

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        for layer in getattr(cache_in(output), "layers", ()):
            for name in ("keys", "values"):
                entries = getattr(layer, name, None)
                if isinstance(entries, Tensor) and entries.ndim == 4:
                    setattr(layer, name, entries.transpose(1, 2).contiguous().transpose(1, 2))
        return output

    sentence = "caches lie position by position"
    return sentence, [], lambda changes: changes.forward(draw.parts.body, around)


@sound()
def tables_in_float64(draw: Draw) -> Planned:
    """The tables of the rotary embedding are computed in float64."""
    _, rope = draw.parts.rope
    frequencies = draw.parts.needed("inverse frequencies", [getattr(rope, "inv_freq", None)])[0]

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        tables = forward(*args, **kwargs)
        positions = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
        angles = positions[..., None].double() * frequencies.double()  # [B, T, D/2]
        if tables[0].shape[-1] == 2 * angles.shape[-1]:
            angles = torch.cat([angles, angles], dim=-1)
        scale = float(getattr(rope, "attention_scaling", 1.0))
        return tuple(
            (f(angles) * scale).to(table.dtype)
            for f, table in zip((torch.cos, torch.sin), tables, strict=True)
        )

    return "rotary tables by float64", [], lambda changes: changes.forward(rope, around)


@sound()
def unused_parts(draw: Draw) -> Planned:
    """The model has a buffer and a layer that nobody uses."""
    model = draw.parts.model

    def plant(changes: Changes) -> None:
        changes.submodule(model, "spare", nn.Linear(2, 2).to(draw.parts.embedding.dtype))

    return "a layer that nobody uses", [], plant
