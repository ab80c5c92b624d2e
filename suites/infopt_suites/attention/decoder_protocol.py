"""What the suite for decoders talks to, and how a transformers model fits.

Legend: B batch, T new tokens, N slots so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from infopt_reference.attention.transformers_cache import cache_argument
from torch import Tensor


class Decoder(Protocol):
    """A language model that can go on where it stopped.

    ``attention_mask`` [B, N] says which of all slots so far hold a token, the new ones included;
    rows are padded on the left. ``past`` is whatever the implementation keeps.
    """

    vocab_size: int

    def logits(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [B, N, V] of whole rows of ids [B, N], computed without a cache."""

    def step(self, ids: Tensor, attention_mask: Tensor, past: Any) -> tuple[Tensor, Any]:
        """Logits [B, T, V] of the tokens ``ids`` [B, T] behind those of ``past``, and the new past.

        The past of a row that begins is None.
        """


class CroppableDecoder(Decoder, Protocol):
    """Capability "crop"."""

    def crop(self, past: Any, length: int) -> Any:
        """The past of the first ``length`` slots."""


class ReorderableDecoder(Decoder, Protocol):
    """Capability "reorder"."""

    def reorder(self, past: Any, rows: Tensor) -> Any:
        """The past whose row i is what row ``rows[i]`` was."""


class MakeDecoder(Protocol):
    """The factory that `DecoderSuite` asks for."""

    def __call__(self, dtype: torch.dtype) -> Decoder:
        """The decoder in that dtype: with the same weights each time, and no memory of others."""


class TransformersDecoder:
    """A causal language model of transformers, with a cache from ``make_past`` (called with it).

    Positions are counted as `generate` counts them: the tokens of a row from 0, whatever lies
    before them.
    """

    def __init__(self, model: Any, make_past: Callable[[Any], Any]) -> None:
        self.model, self.make_past = model, make_past
        self.cache_argument = cache_argument(model) or "past_key_values"
        self.vocab_size: int = model.config.get_text_config().vocab_size

    def logits(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self._forward(ids, attention_mask, use_cache=False)

    def step(self, ids: Tensor, attention_mask: Tensor, past: Any) -> tuple[Tensor, Any]:
        past = self.make_past(self.model) if past is None else past
        options = {self.cache_argument: past}
        logits = self._forward(ids, attention_mask, use_cache=True, **options)
        return logits, past

    def crop(self, past: Any, length: int) -> Any:
        past.crop(length - past.get_seq_length())  # negative: how many tokens to remove
        return past

    def reorder(self, past: Any, rows: Tensor) -> Any:
        past.reorder_cache(rows)
        return past

    def _forward(self, ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
        positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            logits: Tensor = self.model(
                input_ids=ids,
                attention_mask=attention_mask,
                position_ids=positions[:, -ids.shape[1] :],
                **options,
            ).logits
        return logits
