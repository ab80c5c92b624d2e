"""Strategies of batching: the trace, the fitted costs, and that every request is served."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
import torch
from infopt_reference.batching import STRATEGIES, CostModel, TraceRequest
from tiny_models import VOCABULARY, make_model, make_tokenizer

from pytest_infopt.engines.transformers import TransformersEngine
from pytest_infopt.measure.strategies import (
    Workload,
    compare_strategies,
    drawn_trace,
    fitted_cost,
    run_strategy,
)

WORKLOAD = Workload(
    requests=6, prompt_tokens=6, new_tokens=3, load=3.0, max_batch_size=3, max_wait=0.001
)


class TimedByFormula(TransformersEngine):
    """An engine whose passes cost what a formula says."""

    def pass_seconds(self, batch: int, context: int, tokens: int) -> float:
        return 0.01 + 0.001 * batch * tokens + 0.0001 * batch * (context + tokens)


def engine_of(kind: type[TransformersEngine] = TransformersEngine) -> TransformersEngine:
    module = copy.deepcopy(make_model("llama"))
    return kind("tiny", module, make_tokenizer(), dtype=torch.float32)


def test_the_cost_model_finds_the_formula() -> None:
    cost, error = fitted_cost(engine_of(TimedByFormula), WORKLOAD)
    assert error < 1e-6
    for batch, context, tokens in ((1, 0, 6), (3, 9, 1), (2, 4, 5)):
        expected = TimedByFormula.pass_seconds(None, batch, context, tokens)  # type: ignore[arg-type]
        found = cost.step(batch, batch * tokens, batch * (context + tokens))
        assert found == pytest.approx(expected)


def test_the_trace_asks_for_the_load_that_it_names() -> None:
    cost = CostModel(0.01, per_token=0.001)
    many = Workload(4000, 20, 10, load=2.0, max_batch_size=8, max_wait=0.01)
    requests = drawn_trace(cost, many)
    work = sum(cost.batch([TraceRequest(0, r.prompt_tokens, r.output_tokens)]) for r in requests)
    # 4,000 exponential gaps: their mean is within 5 standard errors.
    assert work / requests[-1].arrival == pytest.approx(2.0, rel=5 / 4000**0.5)
    assert requests == drawn_trace(cost, many)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_serves_the_whole_trace(strategy: Any) -> None:
    engine = engine_of()
    requests = drawn_trace(CostModel(0.001), WORKLOAD)
    figures = asyncio.run(run_strategy(strategy, engine, requests, WORKLOAD))
    assert 0 < figures.p50 <= figures.p99
    assert 0 < figures.mean_latency <= figures.p99
    assert figures.tokens_per_second > 0


def test_generated_batches_are_what_each_prompt_gets_alone() -> None:
    engine = TransformersEngine(
        "tiny", make_model("llama").double(), make_tokenizer(), dtype=torch.float64
    )
    prompts = [[1, 2, 3], [7], [VOCABULARY - 1, 5, 9, 2, 2]]
    counts = [4, 1, 6]
    alone = [
        [event.token_id for event in engine.stream(prompt, count)]
        for prompt, count in zip(prompts, counts, strict=True)
    ]
    assert engine.generate(prompts, counts) == alone


def test_the_comparison_has_both_rows_of_every_strategy() -> None:
    table = compare_strategies(engine_of(), WORKLOAD, CostModel(0.001), 0.0)
    assert [row[:2] for row in table.rows] == [
        (strategy, how) for strategy in STRATEGIES for how in ("simulated", "measured")
    ]


def test_a_model_that_the_continuous_batcher_cannot_drive_is_served_by_the_others() -> None:
    engine = TransformersEngine("tiny", make_model("gemma2"), make_tokenizer(), dtype=torch.float32)
    table = compare_strategies(engine, WORKLOAD, CostModel(0.001), 0.0)
    assert [row[0] for row in table.rows if row[1] == "measured"] == ["none", "static", "dynamic"]
    assert any("soft-capped" in note for note in table.notes)
