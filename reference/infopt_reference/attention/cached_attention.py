"""An attention layer that computes the same with a KV cache as without.

    q, k, v = x · Wq, x · Wk, x · Wv      split into heads; q and k turned by their positions
    k, v    = cache.update(k, v)          all tokens so far, the new ones last
    y       = attend(q, k, v, mask) · Wo

Contract. The output for a sequence does not depend on how it was cut into calls (but for rounding):
positions go on where the cache stops, and the mask is made of positions, of the queries' and of the
keys' that the cache gave back. A row that is padded on the left is computed as if it were alone.
Leaves out: cross attention, dropout, normalised queries and keys.
Legend: B batch, T new tokens, S tokens given back, N slots so far, H query heads, G kv heads, D
head dim.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from .attention import attend
from .masks import visible_keys
from .rope import Rope


class LayerCache(Protocol):
    """What attention asks of a cache (`cache.KVCache`)."""

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Stores keys and values [B, G, T, D]; gives those of the last S tokens in order."""

    def get_seq_length(self, layer: int = 0) -> int:
        """Tokens that the layer was given so far."""


class CachedAttention(nn.Module):
    """Self-attention of one decoder layer.

    Args:
        hidden_size: of the input and output.
        heads: H, of the queries.
        kv_heads: G, of keys and values, a divisor of H; None for H.
        head_dim: D; None for hidden_size / H.
        rope: turns queries and keys; None for none.
        window: how many tokens a query sees, its own included; None for all.
        bias: queries, keys and values have one.
        layer: which layer of the cache is this one's.
    """

    def __init__(
        self,
        hidden_size: int,
        heads: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        *,
        rope: Rope | None = None,
        window: int | None = None,
        bias: bool = False,
        layer: int = 0,
    ) -> None:
        super().__init__()
        kv_heads, head_dim = kv_heads or heads, head_dim or hidden_size // heads
        self.head_dim, self.rope, self.window, self.layer = head_dim, rope, window, layer
        self.q_proj = nn.Linear(hidden_size, heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(hidden_size, kv_heads * head_dim, bias=bias)
        self.v_proj = nn.Linear(hidden_size, kv_heads * head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * head_dim, hidden_size, bias=False)

    def forward(
        self, x: Tensor, cache: LayerCache | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """The output [B, T, hidden_size] of the tokens x, which follow those in the cache.

        ``positions`` int64 [B, N] are those of all slots so far, the new ones included, −1 where
        there is no token (`masks.token_positions`); None: every slot holds one.

        Raises:
            ValueError: positions are not given for just the slots so far.
        """
        new = x.shape[1]
        slots = new if cache is None else cache.get_seq_length(self.layer) + new
        positions = check_positions(positions, slots, x.device)
        queries = self._heads(self.q_proj(x))  # [B, H, T, D]
        keys, values = self._heads(self.k_proj(x)), self._heads(self.v_proj(x))  # [B, G, T, D]
        query_positions = positions[:, slots - new :]
        if self.rope is not None:
            queries = self.rope.rotate(queries, query_positions)
            keys = self.rope.rotate(keys, query_positions)
        if cache is not None:
            keys, values = cache.update(keys, values, self.layer)  # [B, G, S, D]
        key_positions = positions[:, slots - keys.shape[2] :]
        mask = visible_keys(query_positions, key_positions, window=self.window)
        output = attend(queries, keys, values, mask)  # [B, H, T, D]
        joined: Tensor = self.o_proj(output.transpose(1, 2).flatten(2))
        return joined

    def _heads(self, x: Tensor) -> Tensor:
        """[B, T, heads · D] → [B, heads, T, D]."""
        return x.view(*x.shape[:2], x.shape[2] // self.head_dim, self.head_dim).transpose(1, 2)


def check_positions(positions: Tensor | None, slots: int, device: torch.device) -> Tensor:
    """Positions of all slots, [B, N] or [1, N].

    Raises:
        ValueError: they are those of another number of slots.
    """
    if positions is None:
        return torch.arange(slots, device=device)[None]
    if positions.shape[1] != slots:
        raise ValueError(
            f"positions are given for {positions.shape[1]} slots, there are {slots} with those in "
            f"the cache; give the attention mask of all of them"
        )
    return positions
