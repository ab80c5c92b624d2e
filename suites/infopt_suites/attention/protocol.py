"""What the attention suite talks to: minimal protocols that a thin adapter makes a kernel fit.

Legend: B batch, T query length, S key length, H query heads, G kv heads (H a multiple of G), D head
dim. The queries are the last T of the S positions, as they are behind a KV cache: query t stands at
position S − T + t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class AttentionSpec:
    """What an attention computes: softmax(Q·Kᵀ / √D)·V over the keys that a query sees.

    ``window``: a query sees the last ``window`` positions, its own included. ``chunk``: it sees the
    positions of its own chunk, counted from its row's first token. ``sinks``: one logit a query
    head, which takes its share of the softmax and has no value. ``tile``: at most so many keys are
    to be handled at a time.
    """

    causal: bool = True
    window: int | None = None
    chunk: int | None = None
    sinks: tuple[float, ...] | None = None
    tile: int | None = None


class Attention(Protocol):
    """Attention of one spec."""

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None
    ) -> Tensor:
        """Output [B, H, T, D] of queries [B, H, T, D] over keys and values [B, G, S, D].

        ``padding`` [B] counts the slots at the start of each row that hold no token.
        """


class AttentionWithLse(Attention, Protocol):
    """Capability "lse"."""

    def attend_with_lse(
        self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The output, and the log of the softmax's denominator [B, H, T]; −inf where no key is."""


class MergingAttention(AttentionWithLse, Protocol):
    """Capability "merge"."""

    def merge(self, parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Output and lse over all keys, from those over disjoint parts of the keys."""


class MakeAttention(Protocol):
    """The factory that `AttentionSuite` asks for."""

    def __call__(self, spec: AttentionSpec) -> Attention:
        """Attention of that spec, with no memory of other calls."""
