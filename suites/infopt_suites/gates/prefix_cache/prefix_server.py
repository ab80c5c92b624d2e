"""A loaded transformers model behind a paged KV cache with prefix caching.

Prompts are served one at a time: what of a prompt's beginning is cached is not computed again.
Keys and values lie in `infopt_reference.attention.PagedKVCache`, prefixes are found by
`infopt_reference.attention.PrefixCache`. PYTEST_DONT_REWRITE: it times.

Legend: T prompt tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from infopt_reference.attention import PagedKVCache, PagedRows, PrefixCache
from infopt_reference.attention.kv_size import kv_shape
from infopt_reference.attention.transformers_cache import TransformersCache

from pytest_infopt.engines.base import CachedEngine, ModuleEngine
from pytest_infopt.engines.transformers.cached_rows import CachedRows


@dataclass(frozen=True)
class ServedPrompt:
    """Logits [T − cached_tokens, V] of what was computed of a prompt, and the time it took."""

    logits: torch.Tensor
    cached_tokens: int
    seconds: float


class PagedEngine(ModuleEngine, CachedEngine, Protocol):
    """What serving from pages takes: a model that takes a cache, in this process."""


class PrefixServer:
    """Serves prompts; finished ones stay cached until others need the room.

    Raises ValueError where layers keep no keys and values per token (state spaces, linear
    attention), or of several sizes: such a model's prefixes cannot be cached in these pages.
    """

    def __init__(self, engine: PagedEngine, num_blocks: int, block_size: int) -> None:
        config = engine.module.config
        self._engine = engine
        self._pages = PagedKVCache(
            kv_shape(config),
            num_blocks,
            block_size,
            dtype=getattr(torch, engine.cache_dtype),
            device=engine.device,
        )
        self._prefixes = PrefixCache(self._pages.pool, block_size)
        self._layers = self._pages.shape.layers

    def serve(
        self,
        prompt: Sequence[int],
        salt: Mapping[str, str] | None = None,
        *,
        last_only: bool = False,
    ) -> ServedPrompt:
        """Compute what is not cached of a prompt; ``last_only`` gives the last row alone.

        Raises OutOfBlocksError where the pool is too small for the prompt.
        """
        started = time.perf_counter()
        match = self._prefixes.match(prompt, salt)
        sequence = object()
        self._pages.allocate(sequence, match.num_tokens, match.blocks)
        try:
            needed = self._pages.blocks_for(len(prompt)) - len(match.blocks)
            self._prefixes.evict(max(0, needed - self._pages.pool.num_free))
            logits = self._compute(prompt, PagedRows(self._pages, [sequence]), last_only)
            seconds = time.perf_counter() - started
            self._prefixes.insert(prompt, self._pages.block_table(sequence), salt)
        finally:
            self._pages.free(sequence)
        return ServedPrompt(logits, match.num_tokens, seconds)

    @torch.no_grad()
    def _compute(self, prompt: Sequence[int], held: PagedRows, last_only: bool) -> torch.Tensor:
        rest = torch.tensor([list(prompt[held.get_seq_length() :])], device=self._engine.device)
        rows = CachedRows(self._engine.forward, rest)
        rows.cache = TransformersCache([held] * self._layers)
        options: dict[str, Any] = self._engine.last_only if last_only else {}
        logits = rows.advance(rest.shape[1], **options)[0]
        if rest.is_cuda:
            torch.cuda.synchronize(rest.device)
        return logits
