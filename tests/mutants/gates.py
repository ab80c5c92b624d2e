"""Planted faults for the equivalence and quality gates, each modelled on a bug that once shipped.

`MODEL_MUTANTS` damage a transformers model: its masks, positions, cache or weights. Each quantizer
of `QUANTIZER_MUTANTS` is a pair, sound and faulty, of functions weight → dequantized weight, with
the models that bring the fault out (one-sided weights, tiny weights) prepared beforehand.

Legend: B batch, T query length, S key length, H heads, D head dim, V vocabulary, R rows, n columns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from infopt_reference.quantization import (
    NF4,
    Granularity,
    QuantizationScheme,
    preset,
    quantize,
)
from torch import Tensor, nn

from pytest_infopt.errors import NonFiniteLogitsError

QUANTIZERS = "1 weights and quantizers"
ATTENTION = "2 attention and KV cache"


@dataclass(frozen=True)
class ModelMutant:
    """``damage`` changes a module in place; ``expected`` is the metric that must FAIL, or the error
    that measuring must raise."""

    name: str
    area: str
    damage: Callable[[Any], None]
    expected: str | type[Exception]
    architecture: str = "llama"


# Faults of what goes into the forward pass


def rewire(module: Any, change: Callable[[dict[str, Any]], None]) -> None:
    """Let ``change`` edit the inputs of every forward pass."""
    plain = module.forward

    @functools.wraps(plain)  # the engine reads the signature
    def forward(**inputs: Any) -> Any:
        change(inputs)
        return plain(**inputs)

    module.forward = forward


def cached_tokens(inputs: dict[str, Any]) -> int:
    cache = inputs.get("past_key_values")
    return 0 if cache is None else int(cache.get_seq_length())


def mask_off_by_one(module: Any) -> None:
    """Every token sees the next one: triu(2) for triu(1)."""

    def change(inputs: dict[str, Any]) -> None:
        length = inputs["input_ids"].shape[1]
        if inputs.get("attention_mask") is None and length > 1:
            hidden = torch.ones(length, length, dtype=torch.bool).triu(2)
            mask = torch.zeros(length, length).masked_fill(hidden, torch.finfo(torch.float32).min)
            inputs["attention_mask"] = mask[None, None]  # [B, H, T, S] = [1, 1, T, T]

    rewire(module, change)


def padding_shifts_positions(module: Any) -> None:
    """Positions count the padding (unsloth#3795): one position row for the whole batch."""

    def change(inputs: dict[str, Any]) -> None:
        if "attention_mask" in inputs:
            rows, length = inputs["input_ids"].shape
            inputs["position_ids"] = torch.arange(length).expand(rows, -1)

    rewire(module, change)


def rope_positions_clamped_by_padding(module: Any) -> None:
    """Tokens as many as there is padding all sit at position 0: the offset is subtracted twice.

    (Not subtracting it at all is legal with rotary positions, which are relative.)
    """

    def change(inputs: dict[str, Any]) -> None:
        if "attention_mask" in inputs:
            padding = (inputs["attention_mask"] == 0).sum(dim=1, keepdim=True)  # [B, 1]
            inputs["position_ids"] = (inputs["position_ids"] - padding).clamp(min=0)

    rewire(module, change)


def padding_is_seen(module: Any) -> None:
    """The mask of a padded batch is ignored."""

    def change(inputs: dict[str, Any]) -> None:
        if "attention_mask" in inputs:
            inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])

    rewire(module, change)


def decoding_restarts_positions(module: Any) -> None:
    """Positions ignore what is in the cache (transformers#15751)."""

    def change(inputs: dict[str, Any]) -> None:
        if cached_tokens(inputs):
            inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[1])[None]

    rewire(module, change)


def cache_one_step_stale(module: Any) -> None:
    """The newest cached token's entry is still that of the token before it."""

    def change(inputs: dict[str, Any]) -> None:
        if cached_tokens(inputs) > 1:
            for layer in inputs["past_key_values"].layers:
                for stored in (layer.keys, layer.values):  # [B, H, S, D]
                    stored[:, :, -1] = stored[:, :, -2]

    rewire(module, change)


def cache_drops_oldest_token(module: Any) -> None:
    """A window one token too small, from the second decoded token on (transformers#37574)."""

    def change(inputs: dict[str, Any]) -> None:
        length = cached_tokens(inputs)
        if length > 1:
            cache = inputs["past_key_values"]
            seen = getattr(cache, "tokens_seen", length)
            cache.tokens_seen = seen + 1
            inputs["position_ids"] = torch.tensor([[seen]])
            for layer in cache.layers:
                layer.keys, layer.values = layer.keys[:, :, 1:], layer.values[:, :, 1:]

    rewire(module, change)


def keys_and_values_of_other_heads(module: Any) -> None:
    """The cache's heads come back reversed after each step (a wrong stride: tt-metal#54742)."""

    def change(inputs: dict[str, Any]) -> None:
        if cached_tokens(inputs):
            for layer in inputs["past_key_values"].layers:
                layer.keys, layer.values = layer.keys.flip(1), layer.values.flip(1)

    rewire(module, change)


# Faults of the weights and the layers


def gqa_heads_in_wrong_order(module: Any) -> None:
    """Key heads repeated 0 1 0 1 where 0 0 1 1 is meant (VeOmni#162).

    Query heads 1 and 2 of four get each other's keys: the same function as swapping these two in
    the query and output projections.
    """
    for layer in module.model.layers:
        attention = layer.self_attn
        width = attention.head_dim
        order = torch.arange(4 * width).view(4, width)[[0, 2, 1, 3]].flatten()
        attention.q_proj.weight.data = attention.q_proj.weight.data[order]
        attention.o_proj.weight.data = attention.o_proj.weight.data[:, order]


def one_linear_scaled(module: Any) -> None:
    module.model.layers[1].mlp.down_proj.weight.data *= 1.05


def head_rows_permuted(module: Any) -> None:
    """The output head of another token order; the embedding, tied to it, keeps its own."""
    module.lm_head.weight = nn.Parameter(module.lm_head.weight.detach().roll(1, dims=0))


def final_norm_skipped(module: Any) -> None:
    module.model.norm = nn.Identity()


def not_a_number(module: Any) -> None:
    module.model.norm.weight.data[3] = torch.nan


def one_infinite_logit(module: Any) -> None:
    """One token's logit only: every maximum, and every comparison with NaN, looks past it."""
    head = module.lm_head.weight.detach().clone()
    head[5] = torch.finfo(torch.float32).max
    module.lm_head.weight = nn.Parameter(head)


MODEL_MUTANTS = [
    ModelMutant("mask-off-by-one", ATTENTION, mask_off_by_one, "causality_error_ratio"),
    ModelMutant(
        "learned-positions-count-padding",
        ATTENTION,
        padding_shifts_positions,
        "batch_error_ratio",
        architecture="gpt2",
    ),
    ModelMutant(
        "rope-offset-by-padding-twice",
        ATTENTION,
        rope_positions_clamped_by_padding,
        "batch_error_ratio",
    ),
    ModelMutant("padding-is-seen", ATTENTION, padding_is_seen, "batch_error_ratio"),
    ModelMutant(
        "decoding-restarts-positions", ATTENTION, decoding_restarts_positions, "cached_error_ratio"
    ),
    ModelMutant("cache-one-step-stale", ATTENTION, cache_one_step_stale, "cached_error_ratio"),
    ModelMutant(
        "cache-drops-oldest-token", ATTENTION, cache_drops_oldest_token, "cached_error_ratio"
    ),
    ModelMutant(
        "cache-heads-reversed", ATTENTION, keys_and_values_of_other_heads, "cached_error_ratio"
    ),
    ModelMutant(
        "gqa-heads-in-wrong-order", ATTENTION, gqa_heads_in_wrong_order, "logit_error_ratio"
    ),
    ModelMutant("one-linear-scaled", QUANTIZERS, one_linear_scaled, "logit_error_ratio"),
    ModelMutant("head-rows-permuted", QUANTIZERS, head_rows_permuted, "greedy_mismatches"),
    ModelMutant("final-norm-skipped", QUANTIZERS, final_norm_skipped, "logit_error_ratio"),
    ModelMutant("nan-logits", QUANTIZERS, not_a_number, NonFiniteLogitsError),
    ModelMutant("one-infinite-logit", QUANTIZERS, one_infinite_logit, NonFiniteLogitsError),
]


# Quantizers: float32 weight [R, n] → dequantized float32 weight [R, n]

Quantizer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class QuantizerMutant:
    """``faulty`` must FAIL kl_mean where the limit is a small multiple of ``sound``'s.

    ``prepare`` changes the float model first, into one on which the fault shows; ``layers`` are the
    projections that both quantize.
    """

    name: str
    scheme: QuantizationScheme
    faulty: Quantizer
    layers: tuple[str, ...] = ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    prepare: Callable[[Any], None] | None = None

    def sound(self, weight: Tensor) -> Tensor:
        return quantize(weight, self.scheme).dequantize()


def apply_quantizer(module: Any, quantizer: Quantizer, layers: tuple[str, ...]) -> None:
    """Replace the named projections' weights by what the quantizer makes of them."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in layers:
            layer.weight.data = quantizer(layer.weight.data)


INT8 = preset("int8")
INT4 = preset("int4", scale_dtype=torch.float32)
RAGGED = preset("int4", group_size=48)  # 64 columns: a group of 48 and a tail of 16
NF4_GROUPS = preset("nf4")
ASYMMETRIC_ROWS = QuantizationScheme(bits=4, symmetric=False, granularity=Granularity.CHANNEL)


def absmax_scales(weight: Tensor, largest: float) -> Tensor:
    """[R, 1]"""
    return weight.abs().amax(dim=1, keepdim=True) / largest


def one_sided_weights(module: Any) -> None:
    """Weights well above 0, as in trained models' gates and norms folded into a projection."""
    for layer in module.model.layers:
        layer.mlp.up_proj.weight.data.abs_().add_(0.5)


def zero_point_clamped(weight: Tensor) -> Tensor:
    """The range leaves 0 out: the zero point lies outside the codes (nncf#4074)."""
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    scales = (high - low) / 15
    zeros = (-low / scales).round().clamp(0, 15)
    return ((weight / scales).round().add(zeros).clamp(0, 15) - zeros) * scales


def scales_on_wrong_axis(weight: Tensor) -> Tensor:
    """Codes by row, multiplied as if by column (coreai-torch#24); square matrices fit."""
    scales = absmax_scales(weight, 127)
    return (weight / scales).round() * scales.T


def tail_dropped(weight: Tensor) -> Tensor:
    """The number of groups is floored, and the rest comes back as 0 (bitsandbytes#1884)."""
    whole = quantize(weight, RAGGED).dequantize()
    whole[:, weight.shape[1] // 48 * 48 :] = 0
    return whole


def linear_code_book(weight: Tensor) -> Tensor:
    """NF4 codes decoded by equal steps (bitsandbytes#1160)."""
    groups = weight.reshape(-1, 64)
    scales = absmax_scales(groups, 1)
    levels = torch.tensor(NF4.values)
    codes = (groups / scales)[..., None].sub(levels).abs().argmin(-1)
    return (torch.linspace(-1, 1, 16)[codes] * scales).view_as(weight)


def scale_left_out(weight: Tensor) -> Tensor:
    """Codes upcast without their scale (Lightricks/LTX-2#172)."""
    return (weight / absmax_scales(weight, 127)).round()


def tiny_weights(module: Any) -> None:
    """Powers of two move from one projection to the next: the same function, bit for bit."""
    for layer in module.model.layers:
        layer.mlp.up_proj.weight.data *= 2.0**-20
        layer.mlp.down_proj.weight.data *= 2.0**20


def scale_underflows(weight: Tensor) -> Tensor:
    """Scales in float16, with a guard on the maximum only (coremltools#2851): 0 for tiny rows."""
    scales = absmax_scales(weight, 127).half().float()
    divisor = torch.where(scales == 0, 1.0, scales)
    return (weight / divisor).round().clamp(-127, 127) * scales


def nibbles_swapped(weight: Tensor) -> Tensor:
    """Each byte's two codes come back in the other order (keras#22338); a group holds both."""
    return quantize(weight, INT4).dequantize().view(-1, 2).flip(-1).view_as(weight)


def rounds_down(weight: Tensor) -> Tensor:
    """The cast to integers floors and does not round (mct-quantization-layers#124)."""
    scales = absmax_scales(weight, 127)
    return (weight / scales).floor() * scales


def scales_of_first_row(weight: Tensor) -> Tensor:
    """A local index is used for the global one: every row reads the first one's scale."""
    scales = absmax_scales(weight, 127)
    return (weight / scales).round() * scales[0]


QUANTIZER_MUTANTS = [
    QuantizerMutant(
        "zero-point-clamped",
        ASYMMETRIC_ROWS,
        zero_point_clamped,
        layers=("up_proj",),
        prepare=one_sided_weights,
    ),
    QuantizerMutant(
        "scales-on-wrong-axis", INT8, scales_on_wrong_axis, layers=("q_proj", "o_proj")
    ),
    QuantizerMutant("ragged-tail-dropped", RAGGED, tail_dropped),
    QuantizerMutant("nf4-code-book-linear", NF4_GROUPS, linear_code_book),
    QuantizerMutant("upcast-without-scale", INT8, scale_left_out),
    QuantizerMutant(
        "float16-scale-underflows",
        INT8,
        scale_underflows,
        layers=("up_proj",),
        prepare=tiny_weights,
    ),
    QuantizerMutant("nibbles-swapped", INT4, nibbles_swapped),
    QuantizerMutant("floor-for-round", INT8, rounds_down),
    QuantizerMutant("scales-of-first-row", INT8, scales_of_first_row),
]
