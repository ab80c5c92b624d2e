"""The ways of one engine through its KV cache, on one prompt.

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol

import torch

from pytest_infopt.engines.base import CachedEngine, KVSizeEngine, WholeLogitsEngine
from pytest_infopt.measure import Pair

_REJECTED = (0, 0)  # wrong tokens before each pass
_REJECTED_OTHERS = (1, 2)
_DECODED = 8  # columns of the ragged batch, one by one: a fault shows in the first few


class CacheEngine(WholeLogitsEngine, CachedEngine, KVSizeEngine, Protocol):
    """What the KV cache's gate takes."""


Routes = dict[str, tuple[torch.Tensor, int]]  # logits, and the first row through the cache


class CachePasses:
    """Passes over a prompt of two or more tokens, each computed when it is first asked for."""

    def __init__(self, engine: CacheEngine, token_ids: Sequence[int]) -> None:
        self.engine = engine
        self.ids = list(token_ids)
        count = len(self.ids)
        self._half = max(1, count // 2)
        longer = [*self.ids, *self.ids[: max(1, count // 4)]][: engine.context_window]
        # The longer row pads the other two; what it repeats would need a dtype error of its own.
        self._rows = [self.ids[: self._half], self.ids, longer]

    @cached_property
    def plain(self) -> torch.Tensor:
        """Logits [T, V] without the cache."""
        return self.engine.full_logits(self.ids)

    def token_by_token(self) -> Routes:
        return {"token by token": (self.engine.through_cache([self.ids], [1])[0], 1)}

    def chunked_prefill(self) -> Routes:
        return {"chunked prefill": (self._chunked, self._chunks(self.ids)[0])}

    def ragged_batch(self) -> Routes:
        first = len(self.ids) - self._decoded
        return {
            "ragged batch, short row": (self._ragged[0], 0),
            "ragged batch": (self._ragged[1], first),
            "ragged batch, longest row": (self._ragged[2][: len(self.ids)], first),
        }

    def tokens_taken_back(self) -> Routes:
        return {"tokens taken back": (self._taken_back, self._chunks(self._kept, 2)[0])}

    # Passes of one shape

    def other_tokens_behind(self) -> Mapping[str, Pair]:
        """The first two chunks of the prompt, with another token at their end."""
        chunks = self._chunks(self.ids)[:2]
        cut = sum(chunks) - 1
        others = [*self.ids[:cut], *self._others(self.ids[cut : cut + 1])]
        rows = self.engine.through_cache([others], chunks)[0]
        return {"the same chunks, other tokens behind": (rows[:cut], self._chunked[:cut])}

    def other_rows(self) -> Mapping[str, Pair]:
        """A row of the ragged batch beside others of the same lengths."""
        short, own, longer = self._rows
        rows = [self._others(short), own, self._others(longer)]
        found = self.engine.through_cache(rows, [len(longer) - self._decoded])
        return {"a cache row beside others": (found[1], self._ragged[1])}

    def other_tokens_taken_back(self) -> Mapping[str, Pair]:
        """What was taken back leaves nothing in its place."""
        rows = self.engine.through_cache(
            [self._kept], self._chunks(self._kept, 2), rejected=_REJECTED_OTHERS
        )[0]
        return {"other tokens taken back": (rows, self._taken_back)}

    @cached_property
    def _chunked(self) -> torch.Tensor:
        return self.engine.through_cache([self.ids], self._chunks(self.ids))[0]

    @cached_property
    def _ragged(self) -> list[torch.Tensor]:
        prefill = len(self._rows[2]) - self._decoded
        return self.engine.through_cache(self._rows, [prefill])

    @cached_property
    def _taken_back(self) -> torch.Tensor:
        chunks = self._chunks(self._kept, 2)
        return self.engine.through_cache([self._kept], chunks, rejected=_REJECTED)[0]

    @property
    def _decoded(self) -> int:
        return min(_DECODED, self._half)

    @property
    def _kept(self) -> list[int]:
        """The prompt; wrong tokens need positions of their own behind those that stay."""
        return self.ids[: self.engine.context_window - len(_REJECTED)]

    @staticmethod
    def _chunks(token_ids: Sequence[int], passes: int = 3) -> list[int]:
        """Sizes of at most so many passes that the tokens are cut into."""
        count = len(token_ids)
        size = -(-count // passes)
        return [min(size, count - start) for start in range(0, count, size)]

    def _others(self, token_ids: Sequence[int]) -> list[int]:
        return [(token + 1) % self.engine.vocabulary for token in token_ids]
