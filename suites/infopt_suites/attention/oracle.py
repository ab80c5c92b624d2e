"""Attention as its definition says, and what rounding may make of it; the suites' own oracle.

Legend: B batch, T query length, S key length, H query heads, G kv heads, D head dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .protocol import AttentionSpec


def visible(queries: int, keys: int, spec: AttentionSpec, padding: Tensor) -> Tensor:
    """Whether each query sees each key, bool [B, 1, T, S]; ``padding`` [B] counts empty slots."""
    padding = padding[:, None, None, None]
    query = torch.arange(keys - queries, keys, device=padding.device)[:, None] - padding
    key = torch.arange(keys, device=padding.device) - padding
    seen = (key >= 0) & torch.ones_like(query, dtype=torch.bool)
    if spec.causal:
        seen = seen & (key <= query)
    if spec.window is not None:
        seen = seen & (query - key < spec.window)
    if spec.chunk is not None:
        seen = seen & (query.div(spec.chunk, rounding_mode="floor") == key // spec.chunk)
    return seen


def plain_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    spec: AttentionSpec,
    padding: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Output [B, H, T, D] and lse [B, H, T], everything in ``dtype``; 0 and −inf without keys."""
    if padding is None:
        padding = torch.zeros(queries.shape[0], dtype=torch.long, device=queries.device)
    repeats = queries.shape[1] // keys.shape[1]
    queries = queries.to(dtype)
    keys, values = (x.to(dtype).repeat_interleave(repeats, dim=1) for x in (keys, values))
    scores = queries @ keys.mT / math.sqrt(queries.shape[-1])  # [B, H, T, S]
    seen = visible(queries.shape[2], keys.shape[2], spec, padding)
    scores = scores.masked_fill(~seen, -math.inf)
    if spec.sinks is not None:
        sinks = torch.tensor(spec.sinks, dtype=dtype, device=scores.device)
        sinks = sinks[:, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], dim=-1)
    if scores.shape[-1] == 0:
        return torch.zeros_like(queries), scores.sum(-1) - math.inf
    lse = scores.logsumexp(-1)
    # exp(−inf − 0): a row that sees nothing keeps weights of 0 where −inf − −inf would be NaN.
    weights = (scores - lse.masked_fill(lse == -math.inf, 0.0)[..., None]).exp()
    return weights[..., : keys.shape[2]] @ values, lse


def rounding_bound(queries: Tensor, keys: Tensor, values: Tensor, dtype: torch.dtype) -> float:
    """How far attention in ``dtype`` may be from the exact one, to first order.

    A logit is off by (D + 2)·u·Σ|q·k|/√D, which moves a weight by twice that share; the maximum,
    exp, the denominator and the weighted sum, in any order, add 2·S + 8 roundings: times u = eps
    and max|v|, or 1 for an lse, which holds no value.
    """
    head_dim, length = queries.shape[-1], keys.shape[2]
    if length == 0:
        return 0.0
    logit = float(queries.abs().max() * keys.abs().sum(-1).max()) / math.sqrt(head_dim)
    largest = float(values.abs().max())
    operations = 2 * (head_dim + 2) * logit + 2 * length + 8
    return torch.finfo(dtype).eps * operations * max(largest, 1.0)
