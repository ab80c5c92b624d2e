"""What the batching gate measures in the process of the models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import cycle, islice
from typing import Any

from infopt_reference.batching import CostModel

from pytest_infopt import ModelPair, Sample, remote
from pytest_infopt.engines.base import able

from ..plans import EquivalencePlan
from .gate import BatchingPlan
from .pairs import (
    BatchingEngine,
    generating,
    measure_batch_invariance,
    measure_batching_pair,
    measure_window,
)
from .strategies import GeneratingEngine, compare_strategies, drawn_trace, fitted_cost, policy_of


class BatchingMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._plan = pair.release.plan(BatchingPlan)
        self._seed = pair.release.statistics.seed

    @property
    def _engine(self) -> GeneratingEngine:
        return able(self._pair.candidate, GeneratingEngine)

    @remote
    def invariance(self, index: int) -> Sample:
        """The index-th prompt in batches of every size, against alone."""
        plan = self._pair.release.plan(EquivalencePlan)
        prompts = self._pair.prompt_set(plan)
        prompt = prompts.prompts[index]
        others = [p for i, p in enumerate(prompts.prompts) if i != index]
        sample = measure_batch_invariance(
            able(self._pair.candidate, BatchingEngine),
            prompts.oracle[index],
            prompts.plain[index],
            prompt,
            [*others, prompt[: max(1, len(prompt) // 2)]],  # of another length
            f"prompt-{index}",
            self._plan.batch_sizes,
            lambda: able(self._pair.plain, BatchingEngine),
            lambda: self._pair.length_effect(plan),
        )
        return self._pair.noted(sample)

    @remote
    def throughput(self, index: int, batched_first: bool) -> Sample:
        """Two full batches of requests through a dynamic batcher, and one by one."""
        plan = self._plan
        text = islice(cycle(self._pair.token_stream), index, None)
        requests: list[tuple[Sequence[int], int]] = [
            (list(islice(text, plan.prompt_tokens)), 1) for _ in range(2 * plan.max_batch_size)
        ]
        return measure_batching_pair(
            generating(self._engine), requests, policy_of(plan), batched_first, f"pair-{index}"
        )

    @remote
    def window(self) -> Sample:
        """What the batcher's window adds to the trace's requests, simulated."""
        plan, (cost, _) = self._plan, self._cost
        trace = drawn_trace(cost, plan, self._seed)
        return measure_window(trace, cost, policy_of(plan), "window")

    @remote
    def strategies_table(self) -> dict[str, Any]:
        """None, static, dynamic and continuous batching on one trace, simulated and measured."""
        return compare_strategies(self._engine, self._plan, self._seed, *self._cost).to_json()

    @cached_property
    def _cost(self) -> tuple[CostModel, float]:
        return fitted_cost(self._engine, self._plan)
