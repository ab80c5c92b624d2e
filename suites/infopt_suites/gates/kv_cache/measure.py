"""What the gate on the KV cache measures in the process of the models."""

from __future__ import annotations

from dataclasses import replace

from pytest_infopt import ModelPair, Sample, remote
from pytest_infopt.engines.base import able

from ..plans import CachesPlan, EquivalencePlan
from .cache_passes import CacheEngine
from .long_prompt import TAIL, long_prompt_of, measure_long_prompt
from .step_pair import measure_step_pair
from .ways import (
    measure_kv_growth,
    measure_kv_prompt,
    paged_table,
    size_table,
    step_cost_table,
)

_REACH = 4  # times the long prompt's tokens: how far away a boundary may lie and be passed


class KvCacheMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._plan = pair.release.plan(CachesPlan)

    @property
    def _engine(self) -> CacheEngine:
        return able(self._pair.candidate, CacheEngine)

    @remote
    def prompt(self, index: int) -> Sample:
        """Every way through the candidate's KV cache on the index-th prompt."""
        plan = self._pair.release.plan(EquivalencePlan)
        prompts = self._pair.prompt_set(plan)
        sample = measure_kv_prompt(
            self._engine,
            prompts.oracle[index],
            prompts.plain[index],
            prompts.prompts[index],
            f"prompt-{index}",
            lambda: able(self._pair.plain, CacheEngine),
            lambda: self._pair.length_effect(plan),
        )
        return self._pair.noted(sample)

    @remote
    def long_prompt(self) -> Sample:
        """The end of a long prompt through the candidate's KV cache, and what the cache keeps."""
        pair, plan, equivalence = self._pair, self._plan, self._pair.release.plan(EquivalencePlan)
        prompts = pair.prompt_set(equivalence)
        token_ids, notes = long_prompt_of(
            pair.token_stream,
            max(plan.long_tokens, 2 * equivalence.tokens + TAIL),
            min(self._engine.context_window, pair.reference.context_window),
            self._engine.cache_boundaries(),
            _REACH * plan.long_tokens,
        )
        sample = measure_long_prompt(
            self._engine,
            prompts.oracle[0],
            prompts.plain[0],
            token_ids,
            "long-prompt",
            lambda: able(pair.plain, CacheEngine),
            lambda: pair.length_effect(equivalence),
            pair.source.kv_cache,
        )
        details = {**sample.details, "notes": [*sample.details["notes"], *notes]}
        return pair.noted(replace(sample, details=details))

    @remote
    def growth(self) -> Sample:
        """Sizes and step costs of the candidate's KV cache; its tables are in the details."""
        plan, window, lengths = self._plan, self._engine.context_window, self._lengths
        reference = able(self._pair.reference, CacheEngine)
        growth = measure_kv_growth(self._engine, lengths, plan.batch_sizes, reference)
        tables = [step_cost_table(growth), size_table(growth)]
        if "kv_size_error" in growth.values and (one := self._engine.predicted_kv_bytes(1)):
            documents = [min(n, window) for n in self._pair.document_lengths]
            tables.append(paged_table(one, documents, max(documents)))
        kept = {name: growth.details.get(name, {}) for name in ("notes", "not_judged")}
        return replace(growth, details={"tables": [table.to_json() for table in tables], **kept})

    @remote
    def step_pair(self, index: int, cached_first: bool) -> Sample:
        """A decoding step at the longest length, with the KV cache and without."""
        return measure_step_pair(self._engine, self._lengths[-1], cached_first, f"pair-{index}")

    @property
    def _lengths(self) -> list[int]:
        window = self._engine.context_window
        return [n for n in self._plan.lengths if n <= window] or [window]
