"""What a library's loaded model is asked for: contexts, which compute sequences in passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

__all__ = ["Column", "Context", "ContextModel"]


@dataclass(frozen=True)
class Column:
    """A token of a pass: its sequence and position there, and whether its logits are wanted."""

    token: int
    position: int
    sequence: int = 0
    wanted: bool = True


class Context(Protocol):
    """Sequences, and what the library keeps of them."""

    @property
    def kept(self) -> dict[str, torch.Tensor]:
        """Keys and values [B, …, T, D] by name; none where the library shows them to nobody."""

    def compute(self, columns: Sequence[Column]) -> torch.Tensor:
        """The logits [R, V] of the wanted among ``columns``, in their order: by sequence, and in
        each behind what it holds."""

    def take_back(self, sequence: int, start: int) -> bool:
        """Forget a sequence's tokens from ``start`` on; False where the cache cannot."""

    def clear(self) -> None:
        """Forget all sequences."""

    def close(self) -> None:
        """Give cache and buffers back. Twice is fine."""


class ContextModel(Protocol):
    """Loaded weights."""

    vocabulary: int

    @property
    def nbytes(self) -> int:
        """What the weights weigh."""

    def context(self, tokens: int, sequences: int = 1) -> Context:
        """An empty context for ``sequences`` sequences of up to ``tokens`` tokens."""

    def close(self) -> None:
        """Give the weights back; contexts have to be closed before. Twice is fine."""
