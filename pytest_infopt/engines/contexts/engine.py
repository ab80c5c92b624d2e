"""A model in contexts: scored, driven step by step, timed, weighed.

PYTEST_DONT_REWRITE: it times.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ..base import MemoryFootprint, TokenEvent
from ..one_at_a_time import OneAtATime
from ..spread_ids import spread_ids
from .scoring import ContextScorer
from .sequences import Sequences


class ContextEngine(ContextScorer, OneAtATime):
    """Protocols of `engines.base`, of which its spec claims what the library can do; its arguments
    are the scorer's."""

    # Generation

    def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]:
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; it takes at least 1")
        self._check(prompt_ids, max_new_tokens)
        return self._stream(prompt_ids, max_new_tokens)

    def _stream(self, prompt_ids: Sequence[int], count: int) -> Iterator[TokenEvent]:
        with self._sequences([prompt_ids], extra=count) as rows:
            for tokens in self._greedy(rows, len(prompt_ids), count):
                yield TokenEvent(tokens[0], time.perf_counter())

    def generate(self, prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> list[list[int]]:
        with self._sequences(prompts, extra=max(counts)) as rows:
            steps = list(self._greedy(rows, max(map(len, prompts)), max(counts)))
        return [
            list(row[:count]) for row, count in zip(zip(*steps, strict=True), counts, strict=True)
        ]

    @staticmethod
    def _greedy(rows: Sequences, columns: int, count: int) -> Iterator[list[int]]:
        for _ in range(count):
            tokens = [int(row[-1].argmax()) for row in rows.advance(columns, last_only=True)]
            rows.append(tokens)
            columns = 1
            yield tokens

    def greedy_tokens(self, token_ids: Sequence[int], count: int) -> list[int]:
        return self.generate([token_ids], [count])[0]

    def pass_seconds(self, batch: int, context: int, tokens: int) -> float:
        ids = spread_ids(context + tokens, self.vocabulary)
        with self._sequences([ids] * batch) as rows:
            if context:
                rows.advance(context, last_only=True)
            started = time.perf_counter()
            rows.advance(tokens, last_only=True)
            return time.perf_counter() - started

    def uncached_step_seconds(self, tokens: int) -> float:
        return self.pass_seconds(1, 0, tokens)

    # Memory

    def memory(self) -> MemoryFootprint:
        return MemoryFootprint(self._model.nbytes, 0)

    def reset_peaks(self) -> None:
        """Nothing: no allocator of the CPU reports peaks."""
