"""What the suite for KV caches talks to: minimal protocols that a thin adapter makes a cache fit.

Legend: B batch, T new tokens, S tokens, G kv heads, D head dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class CacheGeometry:
    """The cache that the suite asks for.

    ``capacity``: the most tokens that are written; a cache may allocate them in advance.
    ``window``: a query sees so many last tokens, its own included; None for all.
    """

    layers: int
    batch: int
    kv_heads: int
    head_dim: int
    capacity: int
    window: int | None = None
    dtype: torch.dtype = torch.float32
    device: str = "cpu"


class KVCache(Protocol):
    """Keys and values of all tokens so far, for each layer."""

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Store T tokens, [B, G, T, D] each, and give what their queries attend to.

        The last S tokens, [B, G, S, D] each, in order: at least those that one of the new queries
        sees. With the capability "mask-sizes", column j is the token at ``offset`` + j instead, and
        columns behind the newest token may hold anything.
        """

    def get_seq_length(self, layer: int = 0) -> int:
        """Tokens that a layer was given, whether or not a window has dropped them since."""


class MaskedCache(KVCache, Protocol):
    """Capability "mask-sizes"."""

    def get_mask_sizes(self, query_length: int, layer: int) -> tuple[int, int]:
        """Width of the next update's keys, and the position of the first of them."""


class PlacedCache(KVCache, Protocol):
    """Capability "positions": columns in another order than their tokens, as in a ring."""

    def key_positions(self, layer: int) -> Tensor:
        """The token [S] in each column that the layer's last update gave; below 0 where none is.

        Those that are there are the newest ones.
        """


class DroppingCache(KVCache, Protocol):
    """Capability "drop": context shift."""

    def drop(self, start: int, stop: int) -> None:
        """Forget the tokens from ``start`` to ``stop`` − 1, in every layer; later ones move up.

        Keys are moved as they are: whoever turned them turns them on (`RopeSuite`, "shift").
        """


class CroppableCache(KVCache, Protocol):
    """Capability "crop"."""

    def crop(self, length: int) -> None:
        """Forget all but the first ``length`` tokens, in every layer."""


class ReorderableCache(KVCache, Protocol):
    """Capability "reorder"."""

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row ``rows[i]`` was, in every layer; there may be fewer rows then."""


class ResettableCache(KVCache, Protocol):
    """Capability "reset"."""

    def reset(self) -> None:
        """Forget everything."""


class ReadableCache(KVCache, Protocol):
    """Capability "logical": the stored tokens, read behind the interface's back."""

    def logical_kv(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values [B, G, S, D] of the last S tokens, in order, all that later ones see."""


class WeighedCache(KVCache, Protocol):
    """Capability "bytes"."""

    def nbytes(self) -> int:
        """Bytes of all memory that the cache keeps alive: of a view, that of its whole storage."""


class RaggedCache(ReorderableCache, Protocol):
    """Capability "ragged": rows of different lengths."""

    def append(self, keys: Tensor, values: Tensor, layer: int, lengths: Tensor) -> None:
        """Store the first ``lengths[b]`` tokens of row b, of keys and values [B, G, T, D]."""

    def row_kv(self, row: int, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values [G, S, D] of all tokens of a row."""


class MakeCache(Protocol):
    """The factory that `KVCacheSuite` asks for."""

    def __call__(self, geometry: CacheGeometry) -> KVCache:
        """An empty cache."""
