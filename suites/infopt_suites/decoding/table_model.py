"""Language models whose logits stand in a table: what a decoder does wrong shows in its tokens.

A model is in one of S states behind each token, and the state depends on every token before it. A
token that is missing, doubled or stale changes what comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from .protocol import TokenCache

VOCABULARY = 8
STATES = 31  # of greedy models


@lru_cache(maxsize=10_000)  # drawn rows are short, and come again and again
def _rows(num_states: int, tokens: tuple[int, ...]) -> Tensor:
    """The state behind each token."""
    found, state = [], 0
    for token in tokens:
        state = (3 * state + token + 1) % num_states
        found.append(state)
    return torch.tensor(found, dtype=torch.long)


@dataclass
class HeldTokens:
    """A cache: the tokens themselves."""

    tokens: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def crop(self, length: int) -> None:
        if not 0 <= length <= len(self.tokens):
            raise ValueError(f"the cache holds {len(self.tokens)} tokens; length is {length}")
        del self.tokens[length:]


@dataclass(frozen=True)
class CachedPass:
    """What a cache held, and the tokens that were added."""

    model: str
    held: tuple[int, ...]
    added: tuple[int, ...]


class TableModel:
    """Logits [S, V] by state. ``passes`` counts calls; ``log`` has those through a cache."""

    def __init__(self, logits: Tensor, name: str = "", log: list[CachedPass] | None = None) -> None:
        self.logits, self.name = logits, name
        self.num_states, self.vocab_size = logits.shape
        self.passes = 0
        self.log: list[CachedPass] = [] if log is None else log

    def states(self, tokens: Sequence[int]) -> list[int]:
        """The state behind each token."""
        found: list[int] = _rows(self.num_states, tuple(map(int, tokens))).tolist()
        return found

    def __call__(self, tokens: Sequence[int]) -> Tensor:
        self.passes += 1
        return self.logits[_rows(self.num_states, tuple(map(int, tokens)))]

    def new_cache(self) -> HeldTokens:
        return HeldTokens()

    def extend(self, cache: TokenCache, tokens: Sequence[int]) -> Tensor:
        assert isinstance(cache, HeldTokens)
        held = tuple(cache.tokens)
        self.log.append(CachedPass(self.name, held, tuple(map(int, tokens))))
        cache.tokens += [int(token) for token in tokens]
        return self(cache.tokens)[len(held) :]


def greedy_table(seed: int) -> Tensor:
    """In each state an order of the tokens, by logits that are whole numbers apart."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(STATES, VOCABULARY, generator=generator).argsort(dim=-1)
    return order.double() - VOCABULARY / 2 + 0.5


def draft_tables(target: Tensor) -> dict[str, Tensor]:
    """Drafts of a greedy target, by what they are."""
    every_third = torch.arange(len(target)) % 3 == 0
    return {
        "identical": target,
        "random": greedy_table(1009),
        "always wrong": -target,
        "wrong in places": torch.where(every_third[:, None], -target, target),
        "right in places": torch.where(every_third[:, None], target, -target),
    }
