"""A transformers model whose KV cache is of another format: every logit comes through it.

A text is computed in passes, as a server computes a long prompt: what a pass sees of earlier ones
is what the cache kept of them. Some caches hand the tokens of their first pass on as they are, so
one pass would not show them.

Shapes: T positions, B batch rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from infopt_reference.attention.kv_size import kv_shape

from ...errors import ModelLoadError
from ..base import Scores
from ..kv_cache_formats import KVCacheFormat, kept_with
from ..whole_scores import WholeScores
from .cached_rows import CachedRows
from .engine import TransformersEngine
from .kv_cache_makers import SCHEMES
from .model import check_logits

_PASS = 64  # tokens of a pass


class KVCachedEngine(TransformersEngine):
    """`TransformersEngine` with caches that ``make`` gives for the model's configuration.

    Raises ModelLoadError where the cache cannot be made for the model, or the model leaves it
    unused.
    """

    def __init__(
        self,
        name: str,
        module: Any,
        tokenizer: Any,
        form: KVCacheFormat,
        make: Callable[[Any], Any],
        **details: Any,
    ) -> None:
        super().__init__(name, module, tokenizer, **details)
        self._form = form
        self._make = make
        self._try_cache()
        self.capabilities = self.capabilities & kept_with(form)

    @property
    def kv_cache(self) -> str:
        """The format of its cache, by name."""
        return self._form.name

    def _try_cache(self) -> None:
        """Two passes, which the cache has to have seen."""
        title = f"model {self.name!r} with kv_cache {self._form.name!r}"
        try:
            with torch.no_grad():
                rows = self._cached_rows(self._probe_ids(2))
                given = rows.cache
                rows.advance(1)
                rows.advance(1)
        except Exception as error:  # libraries raise what they please
            raise ModelLoadError(f"{title}: {type(error).__name__}: {error}") from error
        if rows.cache is not given or int(given.get_seq_length()) != 2:
            raise ModelLoadError(f"{title}: the model does not keep its tokens in that cache")

    def _cached_rows(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> CachedRows:
        rows = super()._cached_rows(ids, mask)
        rows.cache = self._make(self._config)
        return rows

    def score(self, token_ids: Sequence[int]) -> Scores:
        return WholeScores(self.full_logits(token_ids))

    @torch.no_grad()
    def full_logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        logits = self._in_passes(self._ids(token_ids))[0]
        check_logits(logits, self.name, 0)
        return logits

    @torch.no_grad()
    def batch_logits(self, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        ids, mask, lengths = self._batch(prompts)
        return self._without_padding(self._in_passes(ids, mask), lengths)

    def _in_passes(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [B, T, V] of all columns."""
        rows, parts = self._cached_rows(ids, mask), []
        while (left := ids.shape[1] - rows.done) > 0:
            parts.append(rows.advance(min(left, _PASS)))
        return torch.cat(parts, dim=1)

    def predicted_kv_bytes(self, tokens: int, batch: int = 1) -> int | None:
        scheme = SCHEMES.get(self._form.name)
        plain = super().predicted_kv_bytes(tokens, batch)
        if scheme is None or plain is None:
            return None
        try:
            shape = kv_shape(self._config)
        except (AttributeError, TypeError, ValueError, ZeroDivisionError):
            return None
        if shape.nbytes(tokens, batch, bytes_per_number=self._dtype.itemsize) != plain:
            return None  # windows, latents: layers of other shapes
        return shape.quantized_nbytes(tokens, scheme, batch)
