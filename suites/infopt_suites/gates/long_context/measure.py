"""What the long-context gate measures in the process of the models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from pytest_infopt import ModelPair, Sample, remote
from pytest_infopt.engines.base import CachedEngine, Scores, ScoringEngine, able
from pytest_infopt.measure import dtype_named

from ..plans import EquivalencePlan
from .gate import LongContextPlan
from .needles import hidden_keys, measure_needles
from .texts import (
    bucket_divergences,
    bucket_table,
    measure_long_text,
    sweep_table,
    tail_logits,
)


class LongContextMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._plan = pair.release.plan(LongContextPlan)

    @remote
    def count(self) -> int:
        """How many texts the sweep has."""
        return len(self._texts)

    @remote
    def text(self, index: int) -> Sample:
        """The index-th text of the sweep: its end, and its positions by bucket."""
        pair, tokens = self._pair, self._texts[index]
        plan = pair.release.plan(EquivalencePlan)
        candidate = able(pair.candidate, ScoringEngine)
        scores, reference = candidate.score(tokens), self._of_reference(tokens)
        dtype = dtype_named(candidate.dtype)
        buckets = bucket_divergences(reference, scores, tokens, dtype)
        sample = measure_long_text(
            candidate,
            scores,
            self._tails(pair.reference.dtype)[index],
            pair.oracle_logits(plan.oracle, self._tails)[index],
            self._tails(pair.candidate.dtype)[index],
            tokens,
            f"text-{index}-of-{len(tokens)}",
            lambda: able(pair.plain, CachedEngine),
            lambda: pair.length_effect(plan),
            rounds_cache=pair.source.kv_cache is not None,
        )
        worst = {"long_context_bucket_kl": max(buckets.values())}
        details = {**sample.details, "buckets": buckets}
        return pair.noted(replace(sample, values=sample.values | worst, details=details))

    @remote
    def needles(self) -> Sample:
        """The pass keys that the candidate loses."""
        pair, plan = self._pair, self._plan
        keys = hidden_keys(pair.reference.encode, pair.text_of, self._lengths, plan.needles)
        return measure_needles(
            list(keys), self._of_reference, able(pair.candidate, ScoringEngine).score
        )

    @remote
    def tables(self, samples: list[Sample]) -> list[dict[str, Any]]:
        """The sweep's samples as tables."""
        return [sweep_table(samples, self._plan.tail).to_json(), bucket_table(samples).to_json()]

    def _of_reference(self, token_ids: Sequence[int]) -> Scores:
        return self._pair.scores.of(able(self._pair.reference, ScoringEngine), token_ids)

    @property
    def _lengths(self) -> Sequence[int]:
        """The lengths as written; usual ones as far as windows and corpus reach."""
        pair, plan = self._pair, self._plan
        if plan.lengths:
            return plan.lengths
        engines = (pair.reference, pair.candidate)
        most = min(len(pair.token_stream), *(engine.context_window for engine in engines))
        return [length for length in plan.swept if length <= most] or [most]

    @cached_property
    def _texts(self) -> list[list[int]]:
        texts = range(self._plan.texts)
        return [self._pair.text_of(length, index) for length in self._lengths for index in texts]

    def _tails(self, dtype: str) -> list[torch.Tensor]:
        """The last logits [S, V] of each text by the reference's weights in a dtype."""

        def compute() -> list[torch.Tensor]:
            with self._pair.reference_in(dtype) as engine:
                return [
                    tail_logits(
                        able(engine, ScoringEngine).score(text),
                        min(self._plan.tail, len(text) - 1),
                    )
                    for text in self._texts
                ]

        what = f"last {self._plan.tail} logits"
        scores = self._pair.scores
        return scores.logits(self._pair.reference, dtype, self._texts, compute, what=what)
