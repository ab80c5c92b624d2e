"""Scaled dot-product attention, written out as its definition says.

    attend(Q, K, V) = softmax(Q · Kᵀ · scale + mask) · V        scale = 1/√D unless given

Contract. Computed in float32, in float64 for float64 tensors, and rounded once to the dtype of the
queries. A query that sees no key has output 0 and lse −∞, never NaN. Values are multiplied by a
weight of exactly 0 where they are not seen: any finite number may lie there, NaN and infinity may
not. Heads are grouped: query head h reads kv head h // (H / G) (grouped-query attention; multi-head
for G = H, multi-query for G = 1), without a repeated copy of keys or values. Attention sinks are
one logit a query head that takes its share of the softmax and has no value.

Leaves out: dropout, logit soft-capping, additive biases (ALiBi).
Sources: Vaswani et al. 2017, section 3.2.1; Ainslie et al. 2023, "GQA", section 2.2; Xiao et al.
2023, "Efficient streaming language models with attention sinks", section 3.3 (learned sinks).
Legend: B batch, T query length, S key length, H query heads, G kv heads, D head dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attention output, [B, H, T, D] in the dtype of the queries.

    Args:
        queries: [B, H, T, D].
        keys: [B, G, S, D] with G a divisor of H.
        values: [B, G, S, D]; their head dimension, and so the output's, may differ from the keys'.
        mask: bool, broadcastable to [B, H, T, S], True where the key is seen (`masks`); None: all.
        scale: factor of the logits; None for 1/√D.
        sinks: [H] logits of attention sinks; None for none.

    Raises:
        ValueError: H is no multiple of G, keys and values differ in number, or the mask is no bool.
    """
    return attend_with_lse(queries, keys, values, mask, scale=scale, sinks=sinks)[0]


def attend_with_lse(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`attend`, and the log of the softmax's denominator: [B, H, T], float32 (float64 for float64).

    The two together are all that is needed to join attention over disjoint sets of keys
    (`tiles.merge`).
    """
    scores = attention_scores(queries, keys, mask, scale=scale)  # [B, H, T, S]
    if sinks is not None:  # a key like any other, without a value
        column = sinks.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column], dim=-1)
    peak = row_peak(scores)  # [B, H, T, 1]
    weights = torch.exp(scores - peak)  # [B, H, T, S], at most 1
    total = weights.sum(dim=-1, keepdim=True)  # [B, H, T, 1], at least 1 unless no key is seen
    weights = weights[..., : keys.shape[2]] / total.masked_fill(total == 0, 1)
    output = weighted_values(weights, values).to(queries.dtype)
    return output, (peak + total.log()).squeeze(-1)


def attention_scores(
    queries: Tensor, keys: Tensor, mask: Tensor | None = None, *, scale: float | None = None
) -> Tensor:
    """Logits [B, H, T, S] in float32 (float64 for float64), −∞ where the key is not seen.

    Raises:
        ValueError: H is no multiple of G, or the mask is not bool.
    """
    batch, heads, length, head_dim = queries.shape
    kv_heads, keys_held = keys.shape[1:3]
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads cannot share {kv_heads} kv heads evenly")
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"the mask has dtype {mask.dtype}; give a bool mask, True where seen")
    dtype = torch.promote_types(queries.dtype, torch.float32)
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    # The query heads of one kv head are neighbours: their queries are rows of one product.
    rows = heads // kv_heads * length
    grouped = queries.to(dtype).reshape(batch, kv_heads, rows, head_dim)  # [B, G, H/G · T, D]
    scores = (grouped * scale) @ keys.to(dtype).mT  # [B, G, H/G · T, S]
    scores = scores.view(batch, heads, length, keys_held)
    return scores if mask is None else scores.masked_fill(~mask, -math.inf)


def row_peak(scores: Tensor) -> Tensor:
    """The largest logit of each query, [B, H, T, 1]; the lowest finite number where none is seen.

    Finite, because −∞ − (−∞) is NaN; the lowest, because real logits may lie below −1e4 or so.
    """
    lowest = torch.finfo(scores.dtype).min
    if scores.shape[-1] == 0:
        return scores.new_full((*scores.shape[:-1], 1), lowest)
    return scores.detach().amax(dim=-1, keepdim=True).clamp(min=lowest)


def weighted_values(weights: Tensor, values: Tensor) -> Tensor:
    """Σ weight · value, [B, H, T, D] in the dtype of the weights.

    Raises:
        ValueError: there is not one value for each weight.
    """
    batch, heads, length, keys_held = weights.shape
    kv_heads, values_held, head_dim = values.shape[1:]
    if values_held != keys_held:
        raise ValueError(f"{keys_held} keys come with {values_held} values; give one for each key")
    rows = heads // kv_heads * length
    grouped = weights.reshape(batch, kv_heads, rows, keys_held)  # [B, G, H/G · T, S]
    output = grouped @ values.to(weights.dtype)  # [B, G, H/G · T, D]
    return output.view(batch, heads, length, head_dim)
