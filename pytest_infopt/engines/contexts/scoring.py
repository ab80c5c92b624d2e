"""A model in contexts: what it makes of texts, whole and through its cache.

Shapes: T positions, V vocabulary. PYTEST_DONT_REWRITE: it times.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ...errors import InfoptError
from ..base import CacheReading, Capability, Scores
from ..spread_ids import spread_ids
from ..tokenizer_texts import TokenizerTexts
from ..transformers.model import check_logits
from ..whole_scores import WholeScores, top_scores
from .context import Context, ContextModel
from .sequences import Sequences


class ContextScorer(TokenizerTexts):
    """A loaded model that gives logits, as the protocols of `engines.base` say.

    One sequence has a context that stays, as in a server; each batch has one of its own.
    """

    device = "cpu"
    scores_texts = True

    def __init__(
        self,
        name: str,
        model: ContextModel,
        tokenizer: Any,
        *,
        fingerprint: str,
        context_window: int,
        dtype: str,
        capabilities: frozenset[Capability],
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.dtype = dtype
        self.capabilities = capabilities
        self.vocabulary = model.vocabulary
        self.context_window = context_window
        self._model = model
        self._tokenizer = tokenizer
        self._single: Context | None = model.context(context_window)

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    def close(self) -> None:
        if self._single is not None:
            self._single.close()
            self._model.close()
        self._single = None

    # Texts

    def score(self, token_ids: Sequence[int]) -> Scores:
        return WholeScores(self.full_logits(token_ids))

    def full_logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        with self._sequences([token_ids]) as rows:
            return self._checked(rows.advance(len(token_ids)))[0]

    def top_scores(
        self, token_ids: Sequence[int], positions: Sequence[int]
    ) -> list[Mapping[int, float]]:
        return top_scores(self.score(token_ids), token_ids, positions)

    def batch_logits(self, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        with self._sequences(prompts) as rows:
            return self._checked(rows.advance(max(map(len, prompts))))

    # The cache

    def cached_logits(self, token_ids: Sequence[int], prefill: int) -> torch.Tensor:
        return self.through_cache([token_ids], [prefill])[0]

    def through_cache(
        self,
        prompts: Sequence[Sequence[int]],
        sizes: Sequence[int],
        rejected: Sequence[int] = (),
    ) -> list[torch.Tensor]:
        longest = max(map(len, prompts))
        if not sizes or min(sizes) < 1 or sum(sizes) > longest:
            raise ValueError(
                f"passes of {list(sizes)} tokens; they take at least 1 each and {longest} in all"
            )
        parts: list[list[torch.Tensor]] = []
        with self._sequences(prompts, extra=len(rejected)) as rows:
            for size in [*sizes, *[1] * (longest - sum(sizes))]:
                if rejected and rows.done:
                    rows.reject(rejected)
                parts.append(rows.advance(size))
        return self._checked([torch.cat(row) for row in zip(*parts, strict=True)])

    def cached_tail(
        self,
        token_ids: Sequence[int],
        tail: int,
        chunk: int,
        reads: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        prefill = len(token_ids) - tail
        if not 1 <= tail < len(token_ids) or chunk < 1:
            raise ValueError(
                f"a tail of {tail} behind chunks of {chunk}; give 1…{len(token_ids) - 1} and at "
                "least 1"
            )
        with self._sequences([token_ids]) as rows:
            while rows.done < prefill:
                rows.advance(min(chunk, prefill - rows.done), last_only=True)
            logits = torch.cat([rows.advance(1)[0] for _ in range(tail)])
            if reads is not None:
                reads.update(rows.kept)
        check_logits(logits, self.name, prefill)
        return logits

    def cache_readings(
        self, lengths: Sequence[int], batch: int = 1, steps: int = 1
    ) -> list[CacheReading]:
        if not lengths or sorted(set(lengths)) != list(lengths) or lengths[0] < 1 or batch < 1:
            raise ValueError(
                f"lengths {list(lengths)} and batch {batch}: lengths rise, and all are at least 1"
            )
        ids = spread_ids(lengths[-1], self.vocabulary)
        found = []
        with self._sequences([ids] * batch) as rows:
            for length in lengths:
                last = min(steps, length - rows.done)
                if length - last > rows.done:
                    rows.advance(length - last - rows.done, last_only=True)
                started = time.perf_counter()
                for _ in range(last):
                    rows.advance(1, last_only=True)
                seconds = (time.perf_counter() - started) / last
                found.append(CacheReading(length, batch, rows.nbytes, seconds))
        return found

    # What all of them take

    @contextmanager
    def _sequences(self, rows: Sequence[Sequence[int]], extra: int = 0) -> Iterator[Sequences]:
        """The rows in an empty context that has room for so many tokens more."""
        for row in rows:
            self._check(row, extra)
        if self._single is None:
            raise InfoptError(f"the engine of model {self.name!r} is closed; load it again")
        if len(rows) == 1:
            self._single.clear()
            yield Sequences(self._single, rows)
            return
        context = self._model.context(max(map(len, rows)) + extra, len(rows))
        try:
            yield Sequences(context, rows)
        finally:
            context.close()

    def _check(self, token_ids: Sequence[int], extra: int) -> None:
        total = len(token_ids) + extra
        if not token_ids or total > self.context_window:
            raise ValueError(
                f"{total} tokens for model {self.name!r}; it takes 1…{self.context_window}, its "
                "context window"
            )
        low, high = min(token_ids), max(token_ids)
        if low < 0 or high >= self.vocabulary:
            raise ValueError(
                f"token id {low if low < 0 else high} is outside 0…{self.vocabulary - 1}, the "
                f"vocabulary of model {self.name!r}; encode the text with its own tokenizer"
            )

    def _checked(self, rows: list[torch.Tensor]) -> list[torch.Tensor]:
        for row in rows:
            check_logits(row, self.name, 0)
        return rows
