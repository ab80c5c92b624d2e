"""Pairs of a target and a draft whose tokens are drawn: where the rejection rule has to work.

Legend: V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .table_model import TableModel

_HALF = [0.3, 0.25, 0.2, 0.15, 0.04, 0.03, 0.02, 0.01]
_SHARP = [0.9, 0.04, 0.02, 0.01, 0.01, 0.01, 0.005, 0.005]
_FLAT = [0.15, 0.14, 0.13, 0.13, 0.12, 0.12, 0.11, 0.1]
_OTHER = [0.05, 0.3, 0.05, 0.1, 0.25, 0.05, 0.15, 0.05]
SHIFT = 40.0


@dataclass(frozen=True)
class Pair:
    """Logits of a target and a draft in each of two states, [2, V]."""

    name: str
    target: Tensor
    draft: Tensor

    def models(self) -> tuple[TableModel, TableModel]:
        """The draft's logits are as large as real ones: a precision that q is computed in and
        tokens are not drawn in, or the other way round, shows there."""
        return TableModel(self.target, "target"), TableModel(self.draft + SHIFT, "draft")

    def __repr__(self) -> str:
        return f"Pair({self.name!r})"


def in_states(chances: list[float]) -> Tensor:
    """Logits of chances in the first state; in the other, each is that of another token."""
    log = torch.tensor([math.log(p) for p in chances], dtype=torch.float64)
    return torch.stack([log, log.roll(3)])


def truncated(logits: Tensor, top_k: int) -> Tensor:
    """The ``top_k`` largest logits of each row, −∞ for all others."""
    least = logits.topk(top_k, dim=-1).values[:, -1:]
    return logits.where(logits >= least, -math.inf)


PAIRS = {
    pair.name: pair
    for pair in (
        Pair("nearly disjoint", in_states(_HALF), in_states(_HALF[::-1])),
        Pair("equal", in_states(_HALF), in_states(_HALF)),
        Pair("sharp target", in_states(_SHARP), in_states(_FLAT)),
        Pair("sharp draft", in_states(_FLAT), in_states(_SHARP)),
        Pair("truncated draft", in_states(_HALF), truncated(in_states(_FLAT[::-1]), 3)),
    )
}
# Neither target nor draft is what it is without its parameters.
PROCESSED = Pair("processed", in_states(_HALF), in_states(_OTHER))
