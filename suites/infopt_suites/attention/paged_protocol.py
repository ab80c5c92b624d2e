"""What the suite for paged KV caches talks to: minimal protocols for a thin adapter.

Legend: L layers, B sequences, T new tokens, S tokens of a sequence, H query heads, G kv heads,
D head dim, N blocks, P tokens a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class PagedGeometry:
    """The cache that the suite asks for: ``num_blocks`` blocks of ``block_size`` tokens."""

    num_blocks: int
    block_size: int
    layers: int = 2
    kv_heads: int = 2
    head_dim: int = 4
    dtype: torch.dtype = torch.float64
    device: str = "cpu"


class PagedKV(Protocol):
    """Keys and values of many sequences in blocks of one pool. Sequences are named by integers."""

    @property
    def num_free_blocks(self) -> int:
        """Blocks that no sequence holds."""

    def block_table(self, sequence: int) -> Sequence[int]:
        """The blocks of a sequence, in the order of its tokens."""

    def allocate(self, sequence: int) -> None:
        """Start a sequence without tokens."""

    def can_append(self, sequence: int, num_tokens: int) -> bool:
        """Whether `append` of so many tokens would succeed now, copies on write included."""

    def append(self, sequence: int, keys: Tensor, values: Tensor) -> None:
        """Store tokens at the end, [L, G, T, D] each; raise, and change nothing, without blocks."""

    def fork(self, parent: int, child: int) -> None:
        """Start a sequence with the parent's tokens, in the parent's blocks."""

    def truncate(self, sequence: int, length: int) -> None:
        """Keep the first ``length`` tokens, and give back blocks that hold none of them."""

    def free(self, sequence: int) -> None:
        """End a sequence."""

    def read(self, sequence: int, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values [G, S, D] of a sequence, through its table."""


class CountedPagedKV(PagedKV, Protocol):
    """Capability "references"."""

    def references(self, block: int) -> int:
        """How many tables a block is in; 0 when it is free."""


class ExposedPagedKV(PagedKV, Protocol):
    """Capability "pool"."""

    def pool(self, layer: int) -> tuple[Tensor, Tensor]:
        """The memory of keys and of values, [N, …] each, to be written behind the cache's back."""


class PrefixedPagedKV(PagedKV, Protocol):
    """Capability "prefixes": full blocks are found again by their tokens and all before them.

    What is known and held by no sequence counts as free: it is given up when blocks are needed.
    """

    def remember(self, sequence: int, token_ids: Sequence[int]) -> None:
        """Make the full blocks of a sequence known, whose tokens are these."""

    def allocate_known(self, sequence: int, token_ids: Sequence[int]) -> int:
        """Start a sequence with the known blocks of its beginning; how many tokens they hold."""


class AttendingPagedKV(PagedKV, Protocol):
    """Capability "attend"."""

    def attend(self, sequences: Sequence[int], queries: Tensor, layer: int) -> Tensor:
        """Causal attention [B, H, T, D] of queries [B, H, T, D], one row a sequence.

        The queries are each sequence's last T tokens, whose keys and values are stored already.
        """


class DeliveredPagedKV(PagedKV, Protocol):
    """Capability "runner": what computes has a copy of the tables."""

    def runner_table(self, sequence: int) -> Sequence[int]:
        """The table as the next step will read it."""


class MakePagedKV(Protocol):
    """The factory that `PagedKVSuite` asks for."""

    def __call__(self, geometry: PagedGeometry) -> PagedKV:
        """A cache without sequences."""
