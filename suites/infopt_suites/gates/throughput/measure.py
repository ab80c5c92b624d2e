"""What the gate on throughput measures in the process of the models. PYTEST_DONT_REWRITE: it
times."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from infopt_reference.measurement import (
    LoadResult,
    LoadSummary,
    Objective,
    closed_load,
    open_load,
    poisson,
    quantile,
)

from pytest_infopt import ModelPair, Sample, remote
from pytest_infopt.engines.base import LoadEngine, able
from pytest_infopt.errors import InvalidComparisonError
from pytest_infopt.measure import run_load

from ..timing_measure import refuse_turns
from .gate import ATTAINMENT, THROUGHPUT, ThroughputPlan


class ThroughputMeasure:
    def __init__(self, pair: ModelPair) -> None:
        refuse_turns(pair)
        self._pair = pair
        self._plan = pair.release.plan(ThroughputPlan)
        self._reference = able(pair.reference, LoadEngine)
        self._candidate = able(pair.candidate, LoadEngine)

    @remote
    def warm_up(self) -> None:
        """A load on each model that does not count."""
        for engine in (self._reference, self._candidate):
            self._closed(engine, self._plan.concurrency[-1], 0)

    @remote
    def pair(self, index: int, candidate_first: bool) -> Sample:
        """The same loads on both models, at each concurrency."""
        started, plan = time.perf_counter(), self._plan
        engines = {"reference": self._reference, "candidate": self._candidate}
        order = ("candidate", "reference") if candidate_first else ("reference", "candidate")
        rates: dict[str, list[float]] = {}
        seconds: dict[str, float] = {}
        for name in order:
            loads = [self._closed(engines[name], c, index) for c in plan.concurrency]
            rates[name] = [load.tokens_per_second for load in loads]
            seconds[name] = sum(load.seconds for load in loads)  # of as many tokens
        return Sample(
            unit=f"pair-{index}",
            weight=plan.requests * len(plan.concurrency),
            values={THROUGHPUT.name: math.log(seconds["reference"] / seconds["candidate"])},
            details={"tokens_per_second": rates, "candidate_first": candidate_first},
            seconds=time.perf_counter() - started,
        )

    @remote
    def objective(self, index: int) -> Sample:
        """An open load on the candidate: the share of its requests that keep the objective."""
        started, plan = time.perf_counter(), self._plan
        due = poisson(plan.rate, plan.requests, seed=index)
        results = run_load(self._open(self._candidate, due, index))
        objective = Objective(ttft=plan.ttft, tpot=plan.tpot)
        kept = sum(objective.keeps(result.timing) for result in results)
        summary = LoadSummary.of(results)
        late = quantile([result.sent - result.due for result in results], 0.99)
        return Sample(
            unit=f"load-{index}",
            weight=len(results),
            values={ATTAINMENT.name: kept / len(results)},
            details={
                "failed": summary.errors,
                "sent_late_p99": late,
                "goodput": kept / summary.seconds,
                "notes": [f"failed requests: {summary.errors}"] if summary.failed else [],
            },
            seconds=time.perf_counter() - started,
        )

    def _closed(self, engine: LoadEngine, clients: int, index: int) -> LoadSummary:
        """Raises InvalidComparisonError where a request fails, or has another number of tokens."""
        plan = self._plan
        results = run_load(self._run_closed(engine, clients, index))
        summary = LoadSummary.of(results)
        asked = plan.requests * plan.new_tokens
        if summary.failed or summary.tokens != asked:
            raise InvalidComparisonError(
                f"engine {engine.name!r} at concurrency {clients}: {summary.failed} of "
                f"{summary.requests} requests failed {summary.errors}, {summary.tokens} tokens "
                f"came of {asked}; times are then of different work"
            )
        return summary

    async def _run_closed(self, engine: LoadEngine, clients: int, index: int) -> list[LoadResult]:
        await engine.open_streams(clients)
        try:
            return await closed_load(
                lambda request: self._send(engine, index, request),
                self._plan.requests,
                clients=clients,
                clock=time.perf_counter,
            )
        finally:
            engine.close_streams()

    async def _open(self, engine: LoadEngine, due: Sequence[float], index: int) -> list[LoadResult]:
        await engine.open_streams(1)
        try:
            return await open_load(
                lambda request: self._send(engine, index, request), due, clock=time.perf_counter
            )
        finally:
            engine.close_streams()

    async def _send(self, engine: LoadEngine, index: int, request: int) -> list[tuple[int, float]]:
        plan = self._plan
        prompt = self._pair.request(plan.prompt_tokens, index * plan.requests + request)
        events = await engine.load_stream(prompt, plan.new_tokens)
        return [(event.token_id, event.arrived) for event in events]
