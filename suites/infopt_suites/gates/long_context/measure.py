"""What the long-context gate measures in the process of the models."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from pytest_infopt import ModelPair, Sample, remote
from pytest_infopt.engines.base import ScoringEngine, able

from ..plans import EquivalencePlan
from .gate import LongContextPlan
from .texts import TailEngine, measure_long_text, sweep_table, tail_logits


class LongContextMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._plan = pair.release.plan(LongContextPlan)

    @remote
    def text(self, index: int) -> Sample:
        """The end of the index-th text of the sweep."""
        pair, tokens = self._pair, self._texts[index]
        plan = pair.release.plan(EquivalencePlan)
        sample = measure_long_text(
            able(pair.candidate, TailEngine),
            self._tails(pair.reference.dtype)[index],
            pair.oracle_logits(plan.oracle, self._tails)[index],
            self._tails(pair.candidate.dtype)[index],
            tokens,
            f"text-{index}-of-{len(tokens)}",
            lambda: able(pair.plain, TailEngine),
            lambda: pair.length_effect(plan),
        )
        return pair.noted(sample)

    @remote
    def table(self, samples: list[Sample]) -> dict[str, Any]:
        """The sweep's samples as a table."""
        return sweep_table(samples, self._plan.tail).to_json()

    @cached_property
    def _texts(self) -> list[list[int]]:
        plan = self._plan
        return [self._pair.text_of(length, i) for length in plan.lengths for i in range(plan.texts)]

    def _tails(self, dtype: str) -> list[torch.Tensor]:
        """The last logits [S, V] of each text by the reference's weights in a dtype."""

        def compute() -> list[torch.Tensor]:
            with self._pair.reference_in(dtype) as engine:
                return [
                    tail_logits(
                        able(engine, ScoringEngine), text, min(self._plan.tail, len(text) - 1)
                    )
                    for text in self._texts
                ]

        what = f"last {self._plan.tail} logits"
        scores = self._pair.scores
        return scores.logits(self._pair.reference, dtype, self._texts, compute, what=what)
