"""Strategies of batching: the trace, the fitted costs, and that every request is served."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from infopt_reference.batching import STRATEGIES, CostModel, TraceRequest
from infopt_suites.gates.batching.gate import BatchingPlan
from infopt_suites.gates.batching.strategies import (
    compare_strategies,
    drawn_trace,
    fitted_cost,
    run_strategy,
)
from tiny_models import VOCABULARY, make_model, make_tokenizer

from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.errors import InvalidComparisonError

PLAN = BatchingPlan(
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
    cost, error = fitted_cost(engine_of(TimedByFormula), PLAN)
    assert error < 1e-6
    for batch, context, tokens in ((1, 0, 6), (3, 9, 1), (2, 4, 5)):
        expected = TimedByFormula.pass_seconds(None, batch, context, tokens)  # type: ignore[arg-type]
        found = cost.step(batch, batch * tokens, batch * (context + tokens))
        assert found == pytest.approx(expected)


def test_the_trace_asks_for_the_load_that_it_names() -> None:
    cost = CostModel(0.01, per_token=0.001)
    many = BatchingPlan(requests=4000, prompt_tokens=20, new_tokens=10, load=2.0)
    requests = drawn_trace(cost, many, 0)
    work = sum(cost.batch([TraceRequest(0, r.prompt_tokens, r.output_tokens)]) for r in requests)
    # 4,000 exponential gaps: their mean is within 5 standard errors.
    assert work / requests[-1].arrival == pytest.approx(2.0, rel=5 / 4000**0.5)
    assert requests == drawn_trace(cost, many, 0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_serves_the_whole_trace(strategy: Any) -> None:
    engine = engine_of()
    requests = drawn_trace(CostModel(0.001), PLAN, 0)
    figures = asyncio.run(run_strategy(strategy, engine, requests, PLAN, 0))
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
    table = compare_strategies(engine_of(), PLAN, 0, CostModel(0.001), 0.0)
    assert [row[:2] for row in table.rows] == [
        (strategy, how) for strategy in STRATEGIES for how in ("simulated", "measured")
    ]


def test_a_model_that_the_continuous_batcher_cannot_drive_is_served_by_the_others() -> None:
    engine = TransformersEngine("tiny", make_model("gemma2"), make_tokenizer(), dtype=torch.float32)
    table = compare_strategies(engine, PLAN, 0, CostModel(0.001), 0.0)
    assert [row[0] for row in table.rows if row[1] == "measured"] == ["none", "static", "dynamic"]
    assert any("soft-capped" in note for note in table.notes)


def test_a_trace_beyond_the_context_window_is_refused() -> None:
    long = replace(PLAN, prompt_tokens=60, new_tokens=40)
    with pytest.raises(InvalidComparisonError, match=r"a window of 96; lower batching"):
        compare_strategies(engine_of(), long, 0, CostModel(0.001), 0.0)
    with pytest.raises(ValueError, match="context window of 96"):
        engine_of().generate([[1] * 90], [7])


def test_an_error_of_the_engine_is_no_refusal_of_the_model() -> None:
    engine = engine_of()

    def broken(prompts: Any, counts: Any) -> Any:
        raise ValueError("no such shape")

    engine.generate = broken  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="no such shape"):
        compare_strategies(engine, PLAN, 0, CostModel(0.001), 0.0)
