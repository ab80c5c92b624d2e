"""What decoders ask of a language model: logits behind the last tokens of rows.

Contract. Rows are given in full, and a scorer may keep what it computed of earlier ones. Its logits
are those of the rows as they are given, whatever was asked before: tokens that a row has no longer,
rejected drafts among them, leave no trace.
Legend: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor


class Scorer(Protocol):
    """A language model and the rows that it works on."""

    vocab_size: int

    def score(self, rows: Sequence[Sequence[int]], counts: Sequence[int]) -> Tensor:
        """Logits [sum of counts, V] behind each of the last ``counts[i]`` tokens of row i, row by
        row. A count of 0 leaves a row out of the result."""

    def select(self, rows: Sequence[int]) -> None:
        """From now on, row i is what row ``rows[i]`` was."""


class FunctionScorer:
    """A function from the tokens of one row to the logits [n, V] behind each, without a memory."""

    def __init__(self, function: Callable[[Sequence[int]], Tensor], vocab_size: int) -> None:
        self.function, self.vocab_size = function, vocab_size

    def score(self, rows: Sequence[Sequence[int]], counts: Sequence[int]) -> Tensor:
        wanted = [(row, count) for row, count in zip(rows, counts, strict=True) if count]
        return torch.cat([self.function(row)[-count:] for row, count in wanted])

    def select(self, rows: Sequence[int]) -> None:
        pass
