"""Several sequences that go through a context in passes, as `CachedEngine` says it.

A pass covers columns of the batch as if it were padded on the left; the context is given what lies
within a row.

Shapes: T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..base import CannotCropError
from .context import Column, Context


class Sequences:
    """Rows of token ids in an empty context, and how far they are computed."""

    def __init__(self, context: Context, rows: Sequence[Sequence[int]]) -> None:
        self._context = context
        self._rows = [list(row) for row in rows]
        self._longest = max(map(len, self._rows))
        self.done = 0  # columns

    @property
    def kept(self) -> dict[str, torch.Tensor]:
        """See `Context.kept`."""
        return self._context.kept

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values; 0 where the context shows none."""
        return sum(tensor.nbytes for tensor in self.kept.values())

    def advance(self, count: int, *, last_only: bool = False) -> list[torch.Tensor]:
        """Logits of what lies in the next ``count`` columns, [T_i, V] of each row; with
        ``last_only``, of the last column alone."""
        starts = [self._computed(row) for row in self._rows]
        self.done += count
        ends = [self._computed(row) for row in self._rows]
        columns = [
            Column(row[place], place, index, not last_only or place == end - 1)
            for index, (row, start, end) in enumerate(zip(self._rows, starts, ends, strict=True))
            for place in range(start, end)
        ]
        logits = self._context.compute(columns)
        sizes = [end - start for start, end in zip(starts, ends, strict=True)]
        return list(torch.split(logits, [min(s, 1) for s in sizes] if last_only else sizes))

    def append(self, tokens: Sequence[int]) -> None:
        """Put a token behind each row; `advance` then computes it."""
        for row, token in zip(self._rows, tokens, strict=True):
            row.append(token)
        self._longest += 1

    def reject(self, tokens: Sequence[int]) -> None:
        """Compute wrong tokens behind each row, and take them back; raises CannotCropError where
        the cache refuses."""
        held = {i: there for i, row in enumerate(self._rows) if (there := self._computed(row))}
        self._context.compute(
            [
                Column(token, there + place, index, wanted=False)
                for index, there in held.items()
                for place, token in enumerate(tokens)
            ]
        )
        for index, there in held.items():
            if not self._context.take_back(index, there):
                raise CannotCropError("its cache takes no tokens back")

    def _computed(self, row: Sequence[int]) -> int:
        """How many of a row's tokens lie in the columns that are done."""
        return max(0, self.done - (self._longest - len(row)))
