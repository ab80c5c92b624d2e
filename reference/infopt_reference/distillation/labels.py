"""Which positions count: labels as transformers has them, shifted here and nowhere else.

    logits  [B, S, V]     labels [B, S], equal to the input ids, or IGNORED
    logits[:, i] predict labels[:, i + 1]

Contract. Labels, weights and logits of student and teacher are shifted alike, by one. The first
label of a row predicts nothing, so it never counts. Rows packed one after another have IGNORED at
the first token of each, which no earlier row predicts.
"""

from __future__ import annotations

import torch
from torch import Tensor

IGNORED = -100


def predicted(labels: Tensor) -> Tensor:
    """Labels [B, S − 1]: of each position, the token that comes next."""
    return labels[:, 1:]


def predicting(values: Tensor) -> Tensor:
    """Logits or hidden states [B, S − 1, …] of the positions that predict a token of the row."""
    return values[:, :-1]


def count_items(labels: Tensor) -> Tensor:
    """How many tokens of labels [B, S] count: what a mean over tokens is divided by."""
    return (predicted(labels) != IGNORED).sum()


def mean_over_tokens(
    values: Tensor, labels: Tensor, weights: Tensor | None, num_items: Tensor | int | None
) -> Tensor:
    """Σ weight · value over the tokens that count, divided by how many they are.

    Args:
        values: [B, S − 1], one for each predicted token.
        labels: [B, S].
        weights: [B, S], of the label at that place; 1 where there are none.
        num_items: the divisor where this batch is a part of a larger one.
    """
    counts = predicted(labels) != IGNORED
    if weights is not None:
        values = values * predicted(weights)
    # Not times the mask: what is masked may be infinite.
    total = values.masked_fill(~counts, 0).sum()
    items = counts.sum() if num_items is None else torch.as_tensor(num_items, device=total.device)
    return total / items.clamp(min=1)
