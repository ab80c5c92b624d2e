"""Faults of attention: what a query sees, and how it is weighed.

Legend: B rows, T new positions, S positions in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .changes import Changes
from .fault import Draw, Planned, kind
from .parts import NotApplicableError, past_length

_ATTENTION = r"self_attn"
Allowed = Any  # (query positions [T, 1], key positions [1, S]) → bool [T, S]


def _seeing(
    draw: Draw,
    sentence: str,
    allowed: Allowed,
    *,
    within: bool,
    layers: Sequence[int] | None = None,
) -> Planned:
    """Let the queries of one of the layers see the keys that ``allowed`` says: beside the others,
    or, where ``within``, of those that they saw before."""
    layer = draw.choice("layer", layers or draw.parts.layers_with(_ATTENTION))
    name = draw.parts.of_layer(layer, _ATTENTION)
    module = draw.parts.modules[name]

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        mask, count = kwargs.get("attention_mask"), hidden.shape[1]
        past = past_length(kwargs, layer)
        total = past + count if mask is None else mask.shape[-1]
        queries = torch.arange(total - count, total)[:, None]
        keys = torch.arange(total)[None]
        causal = (keys <= queries)[None, None]
        seen: Tensor = causal if mask is None else (mask if mask.dtype == torch.bool else mask >= 0)
        wanted = allowed(queries, keys)[None, None]
        seen = seen & wanted if within else seen | wanted
        if mask is not None and mask.dtype != torch.bool:
            lowest = torch.finfo(mask.dtype).min
            seen = torch.zeros_like(mask).expand(seen.shape).masked_fill(~seen, lowest)
        kwargs["attention_mask"] = seen
        return forward(*args, **kwargs)

    return f"{name}: {sentence}", [name], lambda changes: changes.forward(module, around)


@kind(listed=True)
def mask_off_by_one(draw: Draw) -> Planned:
    """In one layer a token sees the next one."""
    return _seeing(draw, "a token sees the next", lambda q, k: k == q + 1, within=False)


@kind()
def mask_not_itself(draw: Draw) -> Planned:
    """In one layer a token does not see itself."""
    return _seeing(
        draw, "a token does not see itself", lambda q, k: (k < q) | (q == 0), within=True
    )


@kind()
def first_token_unseen(draw: Draw) -> Planned:
    """In one layer no later token sees the first, where heads rest."""
    return _seeing(
        draw, "the first token is not seen", lambda q, k: (k > 0) | (q == 0), within=True
    )


@kind()
def window_not_declared(draw: Draw) -> Planned:
    """One layer sees a window of the text that the model does not declare."""
    width = draw.choice("width", (16, 32))
    kinds = getattr(draw.parts.config, "layer_types", None) or ["full_attention"]
    whole = [i for i in draw.parts.layers if "full" in kinds[i % len(kinds)]]
    draw.parts.needed("layer without a window", whole)
    sentence = f"a window of {width}"
    return _seeing(draw, sentence, lambda q, k: k > q - width, within=True, layers=whole)


@kind()
def window_off(draw: Draw) -> Planned:
    """The sliding window is a token too long or too short."""
    config = draw.parts.config
    width = getattr(config, "sliding_window", None)
    if not width:
        raise NotApplicableError("the model has no sliding window")
    step = draw.choice("step", (1, -1))
    sentence = f"the sliding window is {width + step} in place of {width}"
    return sentence, [], lambda c: c.attribute(config, "sliding_window", width + step)


# Without a cache transformers makes the mask again, from positions that begin anew.
@kind(listed=True, shows="cached batch")
def mask_ignored(draw: Draw) -> Planned:
    """The attention mask that is passed is ignored."""

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["attention_mask"] = None
        return forward(*args, **kwargs)

    return "the attention mask is ignored", [], lambda c: c.forward(draw.parts.model, around)


@kind(shows="left padded")
def padding_seen(draw: Draw) -> Planned:
    """In one layer padding is seen like any token."""
    return _seeing(draw, "padding is seen", lambda q, k: k <= q, within=False)


@kind(shows="right padded")
def right_padding_wrong(draw: Draw) -> Planned:
    """A batch that is padded on the right is computed as if it were padded on the left."""

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim == 2 and not bool(mask[:, -1].all()):
            kwargs["attention_mask"] = mask.flip(1)
        return forward(*args, **kwargs)

    return "right padding is taken for left", [], lambda c: c.forward(draw.parts.model, around)


@kind()
def attention_scale(draw: Draw) -> Planned:
    """The attention logits of a layer have another scale."""
    name, module = draw.module(_ATTENTION)
    factor = draw.choice("factor", (1.1, 0.9, 2.0))
    scale = float(module.scaling)
    sentence = f"the scale of {name} × {factor}"
    return sentence, [name], lambda changes: changes.attribute(module, "scaling", scale * factor)


@kind()
def softcap_dropped(draw: Draw) -> Planned:
    """The soft cap of the attention logits is left out."""
    layers = [
        layer
        for layer in draw.parts.layers_with(_ATTENTION)
        if getattr(draw.parts.modules[draw.parts.of_layer(layer, _ATTENTION)],
                   "attn_logit_softcapping", None)
    ]  # fmt: skip
    layer = draw.choice("layer", draw.parts.needed("soft cap", layers))
    name = draw.parts.of_layer(layer, _ATTENTION)
    module = draw.parts.modules[name]
    sentence = f"{name} has no soft cap"
    return sentence, [name], lambda c: c.attribute(module, "attn_logit_softcapping", None)


@kind()
def query_groups_shifted(draw: Draw) -> Planned:
    """Queries of a layer attend to the keys and values of the next group."""
    pattern = r"self_attn\.(k|v)_proj"
    layer = draw.layer(pattern)
    names = draw.parts.inside(layer, pattern)
    heads = draw.parts.kv_heads
    if heads < 2:
        raise NotApplicableError("keys and values have one head")

    def plant(changes: Changes) -> None:
        for name in names:
            module = draw.parts.modules[name]
            changes.weight(module, lambda w: w.roll(w.shape[0] // heads, dims=0))

    attention = draw.parts.of_layer(layer, _ATTENTION)
    return f"{attention}: queries attend to the next group", [attention], plant


@kind(shows="eager")
def eager_differs(draw: Draw) -> Planned:
    """Eager attention has another scale than the kernel."""
    name, module = draw.module(_ATTENTION)
    factor = draw.choice("factor", (1.1, 0.9))

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        if module.config._attn_implementation != "eager":
            return forward(*args, **kwargs)
        scale, module.scaling = module.scaling, module.scaling * factor
        try:
            return forward(*args, **kwargs)
        finally:
            module.scaling = scale

    sentence = f"{name}: eager attention × {factor}"
    return sentence, [name], lambda changes: changes.forward(module, around)
