"""The passes of one engine over one prompt that its comparisons with itself share.

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol

import torch

from pytest_infopt.engines.base import BatchEngine, WholeLogitsEngine
from pytest_infopt.measure import Pair

_BESIDE_OTHERS = 16  # tokens: whether rows see each other shows in the first few


class EquivalenceEngine(WholeLogitsEngine, BatchEngine, Protocol):
    """What comparing with itself takes; the way through the cache is left out where it is not."""


class PromptPasses:
    """Passes over a prompt of two or more tokens, alone and as a row of a batch.

    The batch has four rows: the prompt, its first half, the prompt with its beginning repeated, and
    the first row once more. With ``padded_ends``, the rows at both ends are padded; without, the
    longest row is at both ends, and the two between are padded.
    """

    def __init__(
        self, engine: EquivalenceEngine, token_ids: Sequence[int], *, padded_ends: bool = True
    ) -> None:
        self.engine = engine
        self.ids = list(token_ids)
        self._padded_ends = padded_ends
        self.rows = self._rows_of(self.ids)

    def _rows_of(self, ids: list[int]) -> list[list[int]]:
        short = ids[: max(1, len(ids) // 2)]
        longer = [*ids, *ids[: max(1, len(ids) // 4)]][: self.engine.context_window]
        if self._padded_ends:
            return [ids, short, longer, ids]
        return [longer, short, ids, longer]

    @cached_property
    def logits(self) -> torch.Tensor:
        """The plain pass, [T, V]."""
        return self.engine.full_logits(self.ids)

    @cached_property
    def behind(self) -> dict[int, torch.Tensor]:
        """Logits [cut, V] of the positions before each cut, when all tokens from there on are
        others: after the first token, half-way, before the last."""
        count = len(self.ids)
        cuts = sorted({1, max(1, count // 2), count - 1})
        return {
            cut: self.engine.full_logits([*self.ids[:cut], *self._others(self.ids[cut:])])[:cut]
            for cut in cuts
        }

    @cached_property
    def batch(self) -> list[torch.Tensor]:
        """Logits [T_i, V] of the batch's rows."""
        return self.engine.batch_logits(self.rows)

    def repeated_pairs(self) -> Mapping[str, Pair]:
        """The plain pass twice."""
        return {"the same pass again": (self.engine.full_logits(self.ids), self.logits)}

    def same_shape_pairs(self) -> Mapping[str, Pair]:
        """By route, rows of two passes of one shape that must not differ."""
        pairs: dict[str, Pair] = {}
        for cut, rows in self.behind.items():
            pairs[f"other tokens from position {cut} on"] = rows, self.logits[:cut]
        beside = self._rows_of(self.ids[:_BESIDE_OTHERS])
        batch = self.batch if beside == self.rows else self.engine.batch_logits(beside)
        pairs["one prompt at both ends of a batch"] = batch[3], batch[0]
        for kept in range(3):
            others = [row if i == kept else self._others(row) for i, row in enumerate(beside)]
            again = self.engine.batch_logits(others)[kept]
            pairs[f"other neighbours of row {kept} of 4"] = again, batch[kept]
        return pairs

    def _others(self, token_ids: Sequence[int]) -> list[int]:
        return [(token + 1) % self.engine.vocabulary for token in token_ids]
