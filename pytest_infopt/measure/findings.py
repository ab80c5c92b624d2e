"""What a token finding shows of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Decode = Callable[[Sequence[int]], str]


def named_tokens(
    ids: torch.Tensor, probabilities: torch.Tensor, decode: Decode
) -> list[tuple[str, float]]:
    """(text, probability) of token ids [K], in their order."""
    pairs = zip(ids.tolist(), probabilities.tolist(), strict=True)
    return [(decode([token]), probability) for token, probability in pairs]
