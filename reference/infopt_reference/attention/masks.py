"""Which keys a query sees, from the positions of both: causal, padded, windowed, chunked.

A query at position p sees the key at position k when

    0 <= k <= p                     causal; a slot without a token has position −1 and is never seen
    p − k < window                  sliding window: the last `window` positions, its own included
    p // chunk == k // chunk        chunked attention: only its own chunk

Positions count the tokens of a row from 0, whatever slot they lie in. So there is one rule for a
whole prompt, a chunk behind a cache (its queries are the last positions: the mask is aligned to the
bottom right), a cache that has dropped its oldest keys, and rows padded on the left. A query in a
slot without a token sees no key; `attention.attend` gives it the output 0.

Contract: masks are bool, True where the key is seen (as `scaled_dot_product_attention` has it).
Leaves out: block-sparse and tree masks, and packing of several documents into one row.
Sources: Vaswani et al. 2017, section 3.2.3 (causal); Beltagy et al. 2020, "Longformer", section 3.1
(window).
Legend: B batch, T query length, S key length.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_positions(attention_mask: Tensor) -> Tensor:
    """The position of each slot's token among the tokens of its row, int64 [B, S]; −1 for none.

    ``attention_mask`` [B, S] is 1 or True where a slot holds a token, as tokenizers give it.

    Raises:
        ValueError: the mask is not a matrix.
    """
    if attention_mask.dim() != 2:
        raise ValueError(
            f"the attention mask has shape {tuple(attention_mask.shape)}; give one row of slots "
            f"for each sequence, [B, S]"
        )
    held = attention_mask.bool()
    return (held.cumsum(dim=1) - 1).masked_fill(~held, -1)


def visible_keys(
    query_positions: Tensor,
    key_positions: Tensor,
    *,
    window: int | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Whether each query sees each key, bool [B, 1, T, S], the same for all heads.

    Args:
        query_positions: int64 [B, T], −1 where there is no token.
        key_positions: int64 [B, S], −1 where there is no token.
        window: how many positions a query sees, its own included; None for all.
        chunk: length of the chunks that attention stays within; None for no chunks.

    Raises:
        ValueError: ``window`` or ``chunk`` is below 1.
    """
    for name, size in (("window", window), ("chunk", chunk)):
        if size is not None and size < 1:
            raise ValueError(f"{name} is {size}; give 1 or more, or None for no limit")
    query = query_positions[:, None, :, None]  # [B, 1, T, 1]
    key = key_positions[:, None, None, :]  # [B, 1, 1, S]
    seen = (key >= 0) & (key <= query)
    if window is not None:
        seen = seen & (query - key < window)
    if chunk is not None:
        same_chunk = query.div(chunk, rounding_mode="floor") == key.div(
            chunk, rounding_mode="floor"
        )
        seen = seen & same_chunk
    return seen


def causal_mask(
    queries: int,
    keys: int,
    *,
    window: int | None = None,
    chunk: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """`visible_keys` of the last ``queries`` of ``keys`` positions, without padding: [1, 1, T, S].

    Raises:
        ValueError: there are more queries than keys, so that some would stand before position 0.
    """
    if queries > keys:
        raise ValueError(f"{queries} queries stand among {keys} keys; give at least as many keys")
    positions = torch.arange(keys, device=device)[None]  # [1, S]
    return visible_keys(positions[:, keys - queries :], positions, window=window, chunk=chunk)
