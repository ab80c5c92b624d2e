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
        count = len(self.ids)
        short = self.ids[: max(1, count // 2)]
        longer = [*self.ids, *self.ids[: max(1, count // 4)]][: engine.context_window]
        middle = [short, longer] if padded_ends else [short, self.ids]
        end = self.ids if padded_ends else longer
        self.rows = [end, *middle, end]

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
        first, short, middle, last = self.batch
        pairs["one prompt at both ends of a batch"] = last, first
        pairs["other neighbours of the first row"] = self._with_others(1, 2, 3)[0], first
        pairs["other neighbours of a short row"] = self._with_others(0, 2, 3)[1], short
        pairs["other neighbours of a row between"] = self._with_others(0, 1, 3)[2], middle
        return pairs

    def _with_others(self, *changed: int) -> list[torch.Tensor]:
        """The batch's logits when the rows at these places have other tokens."""
        rows = [self._others(row) if i in changed else row for i, row in enumerate(self.rows)]
        return self.engine.batch_logits(rows)

    def _others(self, token_ids: Sequence[int]) -> list[int]:
        return [(token + 1) % self.engine.vocabulary for token in token_ids]
