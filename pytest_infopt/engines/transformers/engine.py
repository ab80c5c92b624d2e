"""A transformers causal language model in process: scored, driven step by step, timed, weighed.

Shapes: T positions, B batch rows, V vocabulary. PYTEST_DONT_REWRITE: it times.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import torch

from ..base import CacheReading, MemoryFootprint, StoredWeights, TokenEvent
from ..one_at_a_time import OneAtATime
from .cached_rows import CachedRows
from .footprint import derived_buffers, storage_bytes, stored_weights, weight_tensors
from .kv_caches import declared_boundaries, predicted_kv_bytes, reading
from .model import check_logits
from .scoring import TransformersScorer
from .serving_paths import ServingPaths


class TransformersEngine(TransformersScorer, ServingPaths, OneAtATime):
    """`engines.base.InProcessEngine` over a loaded transformers model, all prompts left-padded.

    Its arguments are those of `LoadedModel`; `engines.base` says what its methods do.
    """

    # Caches and batches

    def cached_logits(self, token_ids: Sequence[int], prefill: int) -> torch.Tensor:
        return self.through_cache([token_ids], [prefill])[0]

    @torch.no_grad()
    def through_cache(
        self,
        prompts: Sequence[Sequence[int]],
        sizes: Sequence[int],
        rejected: Sequence[int] = (),
    ) -> list[torch.Tensor]:
        ids, mask, lengths = self._batch(prompts)
        longest = ids.shape[1]
        if not sizes or min(sizes) < 1 or sum(sizes) > longest:
            raise ValueError(
                f"passes of {list(sizes)} tokens; they take at least 1 each and {longest} in all"
            )
        rows = self._cached_rows(ids, mask)
        parts = []
        for size in [*sizes, *[1] * (longest - sum(sizes))]:
            if rejected and rows.done:
                rows.reject(rejected)
            parts.append(rows.advance(size))
        return self._without_padding(torch.cat(parts, dim=1), lengths)

    @torch.no_grad()
    def cached_tail(
        self,
        token_ids: Sequence[int],
        tail: int,
        chunk: int,
        reads: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        ids = self._ids(token_ids)
        if not 1 <= tail < ids.shape[1] or chunk < 1:
            raise ValueError(
                f"a tail of {tail} behind chunks of {chunk}; give 1…{ids.shape[1] - 1} and at "
                "least 1"
            )
        rows = self._cached_rows(ids)
        prefill = ids.shape[1] - tail
        while rows.done < prefill:
            rows.advance(min(chunk, prefill - rows.done), **self.last_only)
        parts = [rows.advance(1)[0] for _ in range(tail - 1)]
        with reading(rows.cache, {} if reads is None else reads):
            parts.append(rows.advance(1)[0])
        logits = torch.cat(parts)
        check_logits(logits, self.name, prefill)
        return logits

    def _cached_rows(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> CachedRows:
        positions = "position_ids" in self._parameters
        return CachedRows(
            self.forward,
            ids,
            mask,
            takes_positions=positions,
            cache_argument=self._cache_argument,
        )

    # Generation

    def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]:
        # A token has arrived when its id is on the host: on CUDA its computation is waited for.
        ids = self._ids(prompt_ids)
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; it takes at least 1")
        total = ids.shape[1] + max_new_tokens
        if total > self.context_window:
            raise ValueError(
                f"{ids.shape[1]} prompt tokens and {max_new_tokens} new ones are {total}, beyond "
                f"the context window of {self.context_window} of model {self.name!r}"
            )
        return self._stream(ids, max_new_tokens)

    @torch.no_grad()
    def _stream(self, ids: torch.Tensor, count: int) -> Iterator[TokenEvent]:
        rows = self._cached_rows(ids)
        for token in rows.greedy(count, **self.last_only):
            yield TokenEvent(int(token), rows.now())

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> list[list[int]]:
        # The batch runs until its longest output ends, whatever the end token says.
        ids, mask, _ = self._batch(prompts)
        self._check_window(ids.shape[1] + max(counts))
        steps = self._cached_rows(ids, mask).greedy(max(counts), **self.last_only)
        outputs = torch.cat(list(steps), dim=1).tolist()
        return [row[:count] for row, count in zip(outputs, counts, strict=True)]

    def greedy_tokens(self, token_ids: Sequence[int], count: int) -> list[int]:
        return self.generate([token_ids], [count])[0]

    @torch.no_grad()
    def pass_seconds(self, batch: int, context: int, tokens: int) -> float:
        self._check_window(context + tokens)
        rows = self._cached_rows(self._probe_ids(context + tokens).expand(batch, -1))
        if context:
            rows.advance(context, **self.last_only)
        return rows.timed(tokens, **self.last_only)

    # Memory

    def memory(self) -> MemoryFootprint:
        # Weights include quantization constants; buffers are the derived ones. Each counts once.
        module, seen = self.module, set[tuple[str, int]]()
        weights = storage_bytes(weight_tensors(module), seen)
        buffers = storage_bytes(derived_buffers(module), seen)
        if self._device.type != "cuda":
            return MemoryFootprint(weights, buffers)
        # The allocator counts the whole process: the other model of a pair is not this one's.
        others = max(0, torch.cuda.memory_allocated(self._device) - weights - buffers)
        return MemoryFootprint(
            weights,
            buffers,
            peak_allocated_bytes=torch.cuda.max_memory_allocated(self._device) - others,
            peak_reserved_bytes=torch.cuda.max_memory_reserved(self._device) - others,
        )

    def stored_weights(self) -> StoredWeights:
        return stored_weights(self.module)

    def reset_peaks(self) -> None:
        self._check_open()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)

    @torch.no_grad()
    def kv_cache_bytes(self, tokens: int, batch: int = 1) -> int:
        # Its last token is decoded: until then a sliding window keeps the whole prefill alive.
        return self.cache_readings([tokens], batch)[0].nbytes

    @torch.no_grad()
    def cache_readings(
        self, lengths: Sequence[int], batch: int = 1, steps: int = 1
    ) -> list[CacheReading]:
        if not lengths or sorted(set(lengths)) != list(lengths) or lengths[0] < 1 or batch < 1:
            raise ValueError(
                f"lengths {list(lengths)} and batch {batch}: lengths rise, and all are at least 1"
            )
        self._check_window(lengths[-1])
        rows = self._cached_rows(self._probe_ids(lengths[-1]).expand(batch, -1))
        return [rows.reading(length, steps, **self.last_only) for length in lengths]

    @torch.no_grad()
    def uncached_step_seconds(self, tokens: int) -> float:
        self._check_window(tokens)
        ids = self._probe_ids(tokens)
        started = time.perf_counter()
        self.forward(input_ids=ids, **self.last_only)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - started

    def cache_boundaries(self) -> Mapping[str, int]:
        return declared_boundaries(self._config)

    def predicted_kv_bytes(self, tokens: int, batch: int = 1) -> int | None:
        return predicted_kv_bytes(
            self._config, tokens, batch, self._dtype.itemsize, latents=self._keeps_latents
        )
