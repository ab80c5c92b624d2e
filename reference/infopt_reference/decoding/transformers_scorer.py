"""A causal language model of transformers scores rows, and computes only what their cache lacks.

    kept = the longest beginning that a row shares with what the cache holds of it
    roll back to it,  then compute  row[kept:]

Contract. As `scorer.Scorer`. Rejected drafts are rolled back by comparison, so the cache holds what
it would hold if they never were, and a draft model that fell behind catches up. One row, and rows
that keep equally many tokens, are cropped; of ragged rows the kept slots are moved to the right,
so that they are padded on the left. Each token has the position that its row gives it. A pass is
over as many tokens of each row, some of which may be known already: so no padding comes between
them, and a window, which counts slots, is one of tokens. Layers with windows keep all tokens: those
that a window has left behind come back into it when drafts are rolled back.
Leaves out: layers with chunks or states (a slot moved would be another token to them).
Legend: B rows, S slots, T new slots, D head dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import DynamicCache

from ..attention.kv_size import layer_kinds
from ..attention.masks import token_positions
from ..attention.transformers_cache import cache_argument


class TransformersScorer:
    """Rows of tokens, and their keys and values in a `DynamicCache`.

    Raises:
        ValueError: a layer of the model is of a kind that is not rolled back.
    """

    kinds: ClassVar[Collection[str]] = ("full_attention", "sliding_attention")

    def __init__(self, model: Any) -> None:
        other = sorted({*layer_kinds(model.config)} - {*self.kinds})
        if other:
            raise ValueError(
                f"layers of {', '.join(other)} cannot be rolled back here; those of "
                f"{' and '.join(self.kinds)} can"
            )
        self.model = model
        self._cache_argument = cache_argument(model) or "past_key_values"
        self.vocab_size: int = model.config.get_text_config().vocab_size
        self._reset(0)

    def _reset(self, rows: int) -> None:
        self.cache = DynamicCache()
        self.tokens: list[list[int]] = [[] for _ in range(rows)]  # those that the cache holds
        self.mask = torch.ones(rows, 0, dtype=torch.bool, device=self.model.device)  # [B, S]

    @torch.no_grad()
    def score(self, rows: Sequence[Sequence[int]], counts: Sequence[int]) -> Tensor:
        if len(rows) != len(self.tokens):
            self._reset(len(rows))
        kept = [
            min(shared_length(held, row), len(row) - count)
            for held, row, count in zip(self.tokens, rows, counts, strict=True)
        ]
        kept = self.aligned(rows, kept)
        self._keep(kept)
        width = max(len(row) - n for row, n in zip(rows, kept, strict=True))
        new = [[*row[n:]] for row, n in zip(rows, kept, strict=True)]
        padded = [[0] * (width - len(each)) + each for each in new]
        present = [[False] * (width - len(each)) + [True] * len(each) for each in new]
        device = self.mask.device
        self.mask = torch.cat([self.mask, torch.tensor(present, device=device)], dim=1)
        logits = self.model(
            input_ids=torch.tensor(padded, device=device),
            attention_mask=self.mask.long(),
            position_ids=token_positions(self.mask)[:, -width:].clamp(min=0),
            use_cache=True,
            logits_to_keep=max(counts),
            **{self._cache_argument: self.cache},
        ).logits
        self.tokens = [[*row] for row in rows]
        return torch.cat([row[-count:] for row, count in zip(logits, counts, strict=True) if count])

    def aligned(self, rows: Sequence[Sequence[int]], kept: Sequence[int]) -> list[int]:
        """Tokens to keep of each row, so that a pass is over as many of each, where it has them."""
        width = max(len(row) - n for row, n in zip(rows, kept, strict=True))
        return [max(len(row) - width, 0) for row in rows]

    def select(self, rows: Sequence[int]) -> None:
        indices = torch.tensor(rows, device=self.mask.device)
        self.tokens = [self.tokens[row] for row in rows]
        self.mask = self.mask[indices]
        if self.cache.get_seq_length():
            self.cache.batch_select_indices(indices)

    def _keep(self, kept: Sequence[int]) -> None:
        """Keep the first ``kept[i]`` tokens of each row, and forget the others."""
        if not self.mask.shape[1]:
            return
        if bool(self.mask.all()) and len({*kept}) == 1:
            # A negative number: how many go. What a positive one means depends on the release.
            self.cache.crop(min(kept[0] - self.mask.shape[1], 0))
            self.mask = self.mask[:, : kept[0]]
            return
        slots = [each.nonzero()[:n, 0] for each, n in zip(self.mask, kept, strict=True)]
        width = max(kept)
        empty = torch.tensor(width) - torch.tensor(kept)
        order = torch.stack(
            [torch.nn.functional.pad(x, (width - len(x), 0)) for x in slots]
        )  # [B, width]
        self.move(order)
        columns = torch.arange(width, device=self.mask.device)
        self.mask = columns >= empty.to(self.mask.device)[:, None]

    def move(self, slots: Tensor) -> None:
        """Slot s of row i becomes what slot ``slots[i, s]`` was; other slots are forgotten."""
        for layer in self.cache.layers:
            index = slots.to(layer.keys.device)[:, None, :, None]
            layer.keys = layer.keys.take_along_dim(index, dim=2)  # [B, heads, S, D]
            layer.values = layer.values.take_along_dim(index, dim=2)


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
