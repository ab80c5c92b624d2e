"""Scores of an engine that gives whole matrices of logits, and what it finds most probable.

Shapes: T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from .base import Scores

__all__ = ["WholeScores", "top_scores"]

_TOP = 20  # tokens of a position, as most servers tell at most


@dataclass(frozen=True)
class WholeScores:
    """Scores kept as the checked logits [T, V] themselves."""

    kept: torch.Tensor

    @property
    def positions(self) -> int:
        return len(self.kept)

    @property
    def vocabulary(self) -> int:
        return self.kept.shape[1]

    def logits(self, start: int, stop: int) -> torch.Tensor:
        """Rows start…stop−1, [stop − start, V]."""
        if not 0 <= start < stop <= self.positions:
            raise ValueError(f"rows {start}…{stop} are outside the document's 0…{self.positions}")
        return self.kept[start:stop]


def top_scores(
    scores: Scores, token_ids: Sequence[int], positions: Sequence[int]
) -> list[Mapping[int, float]]:
    """What `engines.base.TopScoresEngine` tells, of scores that are at hand."""
    rows = list[Mapping[int, float]]()
    for position in positions:
        log_p = torch.log_softmax(scores.logits(position, position + 1)[0].double(), -1)
        best = log_p.topk(min(_TOP, len(log_p)))
        row = dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        if position + 1 < len(token_ids):
            row[token_ids[position + 1]] = float(log_p[token_ids[position + 1]])
        rows.append(row)
    return rows
