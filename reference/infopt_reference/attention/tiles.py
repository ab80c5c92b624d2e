"""Attention over the keys a tile at a time, and the merging of results over parts of the keys.

The softmax's denominator and maximum are not known before the last key. Online softmax keeps, for
every query, the largest logit m so far, the denominator l and the weighted sum O, both relative to
m; when a tile brings a larger maximum, l and O are scaled down to it:

    m' = max(m, max s)      a = exp(m − m')      p = exp(s − m')
    l' = a · l + Σ p        O' = a · O + p · V        at the end: O / l,  lse = m + log l

Merging (flash decoding, split keys): parts with outputs Oᵢ and log-denominators lseᵢ over disjoint
keys give O = Σ wᵢ·Oᵢ with wᵢ = exp(lseᵢ − lse), lse = log Σ exp(lseᵢ).

Contract. As `attention`: float32 or float64 within, 0 and −∞ for queries that see no key. The
result does not depend on the tiles but for rounding. An attention sink takes its share once
(`with_sinks`), after all parts are merged: in each part it would be counted once a part.
Sources: Milakov & Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3; Dao et
al. 2022, "FlashAttention", algorithm 1.
Legend: B batch, T query length, S key length, H query heads, G kv heads, D head dim.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .attention import attention_scores, row_peak, weighted_values


def attend_in_tiles(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    *,
    tile: int,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """What `attention.attend_with_lse` gives, from ``tile`` keys at a time.

    Arguments and errors as there; the mask's last dimension is S (or 1: the same for all keys).

    Raises:
        ValueError: ``tile`` is below 1.
    """
    if tile < 1:
        raise ValueError(f"tile is {tile}; give 1 key or more")
    dtype = torch.promote_types(queries.dtype, torch.float32)
    peak = queries.new_full((*queries.shape[:-1], 1), torch.finfo(dtype).min, dtype=dtype)
    total = torch.zeros_like(peak)  # [B, H, T, 1], as the peak
    output = queries.new_zeros((*queries.shape[:-1], values.shape[-1]), dtype=dtype)  # [B, H, T, D]
    for start in range(0, keys.shape[2], tile):
        here = slice(start, start + tile)
        seen = None if mask is None else mask.expand(*mask.shape[:-1], keys.shape[2])[..., here]
        scores = attention_scores(queries, keys[:, :, here], seen, scale=scale)
        larger = torch.maximum(peak, row_peak(scores))
        shrink, weights = torch.exp(peak - larger), torch.exp(scores - larger)
        total = shrink * total + weights.sum(dim=-1, keepdim=True)
        output = shrink * output + weighted_values(weights, values[:, :, here])
        peak = larger
    lse = (peak + total.log()).squeeze(-1)
    return (output / total.masked_fill(total == 0, 1)).to(queries.dtype), lse


def merge(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Output [B, H, T, D] and lse [B, H, T] over all keys, from those over disjoint parts of them.

    Raises:
        ValueError: there are no parts.
    """
    if not parts:
        raise ValueError("there are no parts to merge; give at least one (output, lse)")
    lses = torch.stack([lse for _, lse in parts])  # [parts, B, H, T]
    lse = lses.logsumexp(dim=0)
    # A query without keys in any part has −∞ everywhere; against 0 its weights are exp(−∞) = 0.
    shares = torch.exp(lses - lse.masked_fill(lse == -math.inf, 0))[..., None]
    output = sum(share * part for share, (part, _) in zip(shares, parts, strict=True))
    assert isinstance(output, Tensor)
    return output.to(parts[0][0].dtype), lse


def with_sinks(output: Tensor, lse: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
    """Output and lse after sinks [H], one logit a query head, have taken their share."""
    joint = torch.logaddexp(lse, sinks.to(lse.dtype)[None, :, None])  # [B, H, T]
    share = torch.exp(lse - joint)[..., None]
    return (output * share).to(output.dtype), joint
