"""Strategies of batching on one trace: simulated with the engine's own costs, and really run.

The engine's passes are timed at a few batch sizes, lengths and contexts, and a cost model is fitted
to them. A Poisson trace is drawn whose arrivals ask for ``load`` times what the engine manages one
request at a time; each strategy is simulated on it and then served by the reference batchers, in
real time, by the engine itself.

PYTEST_DONT_REWRITE: it times.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import astuple, dataclass
from typing import Protocol

import numpy as np
from infopt_reference.batching import (
    STRATEGIES,
    BatchPolicy,
    ContinuousBatcher,
    CostModel,
    DynamicBatcher,
    MeasuredStep,
    SamplingParameters,
    SchedulerConfig,
    StaticBatcher,
    Strategy,
    TraceRequest,
    lognormal,
    poisson,
    simulate,
    trace,
)

from pytest_infopt import MeasuredTable, Plot
from pytest_infopt.engines.base import BatchEngine, ModuleEngine
from pytest_infopt.errors import InvalidComparisonError
from pytest_infopt.results.measured_table import Cell

from .gate import BatchingPlan

Serve = Callable[[Sequence[int], int], Awaitable[object]]  # a prompt, and how many tokens
_SPREAD = 0.7  # sigma of ln(length): outputs of one trace differ tenfold
_BLOCK_SIZE = 16
_REPEATS = 2  # of each timed pass; the faster one counts


class GeneratingEngine(BatchEngine, ModuleEngine, Protocol):
    """What serving a trace takes: batches, and the model for the continuous batcher."""


@dataclass(frozen=True)
class StrategyFigures:
    """What a strategy gave for a trace: seconds, and generated tokens a second."""

    mean_latency: float
    p50: float
    p99: float
    tokens_per_second: float

    @classmethod
    def of(cls, requests: Sequence[TraceRequest], completions: Sequence[float]) -> StrategyFigures:
        """``completions`` are seconds since the trace began, one for each request."""
        latencies = np.subtract(completions, [request.arrival for request in requests])
        p50, p99 = np.percentile(latencies, (50, 99))
        tokens = sum(request.output_tokens for request in requests)
        seconds = max(completions) - requests[0].arrival
        return cls(float(latencies.mean()), float(p50), float(p99), tokens / seconds)


def policy_of(plan: BatchingPlan) -> BatchPolicy:
    """The policy of the plan's batchers."""
    return BatchPolicy(plan.max_batch_size, max_wait=plan.max_wait)


def fitted_cost(engine: BatchEngine, plan: BatchingPlan) -> tuple[CostModel, float]:
    """The engine's cost model, and its median relative error on the passes that it was fitted to.

    Passes are prefills and decoding steps of the plan's lengths, alone and in batches.
    """
    longest = plan.prompt_tokens + plan.new_tokens
    sizes = sorted({1, 2, max(1, plan.max_batch_size // 2), plan.max_batch_size})
    shapes = [(size, 0, plan.prompt_tokens) for size in sizes]
    shapes += [(size, context, 1) for size in sizes for context in (plan.prompt_tokens, longest)]
    engine.pass_seconds(*shapes[0])  # warm-up
    steps = [
        MeasuredStep(
            min(engine.pass_seconds(size, context, tokens) for _ in range(_REPEATS)),
            size,
            size * tokens,
            size * (context + tokens),
        )
        for size, context, tokens in shapes
    ]
    model = CostModel.fit(steps)
    return model, float(np.median(np.abs(model.relative_errors(steps))))


def drawn_trace(cost: CostModel, plan: BatchingPlan, seed: int) -> list[TraceRequest]:
    """Requests whose arrivals ask for ``load`` times the throughput of one at a time."""
    lengths = [
        lognormal(median, _SPREAD, plan.requests, seed + offset, longest=4 * median)
        for offset, median in enumerate((plan.prompt_tokens, plan.new_tokens))
    ]
    alone = [cost.batch([TraceRequest(0.0, *pair)]) for pair in zip(*lengths, strict=True)]
    rate = plan.load * len(alone) / math.fsum(alone)
    return trace(poisson(rate, plan.requests, seed), *lengths)


def scheduler_config(requests: Sequence[TraceRequest], plan: BatchingPlan) -> SchedulerConfig:
    """As many sequences as a batch has, and blocks for the longest of them."""
    longest = max(r.prompt_tokens + r.output_tokens for r in requests)
    return SchedulerConfig(
        num_blocks=plan.max_batch_size * -(-longest // _BLOCK_SIZE),
        block_size=_BLOCK_SIZE,
        max_num_seqs=plan.max_batch_size,
        max_num_batched_tokens=max(plan.max_batch_size, 2 * plan.prompt_tokens),
    )


async def run_strategy(
    strategy: Strategy,
    engine: GeneratingEngine,
    requests: Sequence[TraceRequest],
    plan: BatchingPlan,
    seed: int,
) -> StrategyFigures:
    """Serves the trace in real time, each request from its own arrival on."""
    prompts = _prompts(requests, engine.vocabulary, seed)
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        serve, flush = await _server(strategy, engine, requests, plan, stack)
        started = loop.time()

        async def one(request: TraceRequest, prompt: list[int]) -> float:
            await asyncio.sleep(started + request.arrival - loop.time())
            await serve(prompt, request.output_tokens)
            return loop.time() - started

        tasks = [asyncio.create_task(one(*pair)) for pair in zip(requests, prompts, strict=True)]
        await asyncio.sleep(started + requests[-1].arrival - loop.time())
        await asyncio.sleep(0)
        flush()
        return StrategyFigures.of(requests, await asyncio.gather(*tasks))


async def _server(
    strategy: Strategy,
    engine: GeneratingEngine,
    requests: Sequence[TraceRequest],
    plan: BatchingPlan,
    stack: AsyncExitStack,
) -> tuple[Serve, Callable[[], object]]:
    """How a request is served, and what sends the last, incomplete batch."""
    if strategy == "continuous":
        config = scheduler_config(requests, plan)
        continuous = await stack.enter_async_context(ContinuousBatcher(engine.module, config))

        async def generate(prompt: Sequence[int], count: int) -> object:
            return await continuous.submit(prompt, SamplingParameters(max_new_tokens=count))

        return generate, lambda: None

    thread = stack.enter_context(ThreadPoolExecutor(1))

    async def batch_function(items: list[tuple[Sequence[int], int]]) -> list[list[int]]:
        prompts, counts = zip(*items, strict=True)
        return await asyncio.get_running_loop().run_in_executor(
            thread, engine.generate, prompts, counts
        )

    if strategy == "static":
        static = await stack.enter_async_context(StaticBatcher(batch_function, policy_of(plan)))
        return lambda prompt, count: static.submit((prompt, count)), static.flush
    policy = policy_of(plan) if strategy == "dynamic" else BatchPolicy(1)
    batcher = await stack.enter_async_context(DynamicBatcher(batch_function, policy))
    return lambda prompt, count: batcher.submit((prompt, count)), lambda: None


def compare_strategies(
    engine: GeneratingEngine, plan: BatchingPlan, seed: int, cost: CostModel, cost_error: float
) -> MeasuredTable:
    """Latency and throughput of every strategy on one trace, simulated and real.

    ``cost`` and ``cost_error`` are those of `fitted_cost`. A model that the continuous batcher
    cannot drive is served by the others. Raises InvalidComparisonError for a trace whose longest
    request is beyond the engine's context window.
    """
    started = time.perf_counter()
    requests = drawn_trace(cost, plan, seed)
    longest = max(request.prompt_tokens + request.output_tokens for request in requests)
    if longest > engine.context_window:
        raise InvalidComparisonError(
            f"the trace has a request of {longest} tokens, the model a window of "
            f"{engine.context_window}; lower batching.prompt_tokens or batching.new_tokens"
        )
    config = scheduler_config(requests, plan)
    rows: list[tuple[Cell, ...]] = []
    notes = [
        f"{len(requests)} requests at {plan.load:g} times the rate that one at a time serves; "
        f"the cost model's median error is {100 * cost_error:.0f} %"
    ]
    throughput: dict[str, float] = {}
    for strategy in STRATEGIES:
        simulated = simulate(strategy, requests, cost, policy_of(plan), config)
        figures = StrategyFigures.of(requests, simulated.completions)
        rows.append((strategy, "simulated", *astuple(figures)))
        refusal = _refusal(engine, config) if strategy == "continuous" else ""
        if refusal:
            notes.append(f"{strategy} was not run: {refusal}")
            continue
        try:
            real = asyncio.run(run_strategy(strategy, engine, requests, plan, seed))
        except (RuntimeError, TypeError, ValueError) as error:
            if strategy != "continuous":
                raise
            notes.append(f"{strategy} was not run: {error}")  # the model's attention is another one
            continue
        rows.append((strategy, "measured", *astuple(real)))
        throughput[strategy] = real.tokens_per_second
    best = max(throughput, key=lambda name: throughput[name])
    ratio = throughput[best] / throughput["none"]
    notes.append(f"{best} batching gives {ratio:.2f} times the throughput of one at a time")
    notes.append(f"compared in {time.perf_counter() - started:.0f} s")
    columns = ("strategy", "by", "mean latency, s", "p50, s", "p99, s", "tokens a second")
    plot = Plot("strategy", columns[5:], "tokens a second", "bar", ordered=True, group="by")
    return MeasuredTable("strategies of batching", columns, tuple(rows), tuple(notes), plot)


def _refusal(engine: GeneratingEngine, config: SchedulerConfig) -> str:
    """Why the continuous batcher cannot drive the model, or nothing."""
    try:
        ContinuousBatcher(engine.module, config)
    except ValueError as error:
        return str(error)
    return ""


def _prompts(requests: Sequence[TraceRequest], vocabulary: int, seed: int) -> list[list[int]]:
    """Random ids: what a pass costs does not depend on them."""
    generator = random.Random(seed)
    return [
        [generator.randrange(vocabulary) for _ in range(request.prompt_tokens)]
        for request in requests
    ]
