"""Loads on engines with known times: tokens a second, objectives kept, work that differs."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from infopt_suites.batching.clock import VirtualClock
from infopt_suites.gates.throughput import measure as module
from infopt_suites.gates.throughput.gate import ThroughputPlan
from infopt_suites.gates.throughput.measure import ThroughputMeasure

from pytest_infopt.engines.base import Capability, TokenEvent
from pytest_infopt.errors import InvalidComparisonError

PLAN = ThroughputPlan(concurrency=(1, 4), requests=8, new_tokens=5, rate=1.0, ttft=1.5, tpot=0.3)


class TimedEngine:
    """The first token takes a second, each other ``gap``; ``parallel`` requests at once."""

    capabilities = frozenset({Capability.LOAD})

    def __init__(self, name: str, gap: float = 0.25, parallel: int = 4, fails: int = -1) -> None:
        self.name, self.gap, self.parallel, self.fails = name, gap, parallel, fails
        self.short = False
        self.asked = 0

    async def open_streams(self, count: int) -> None:
        self._room = asyncio.Semaphore(self.parallel)

    async def load_stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> list[TokenEvent]:
        self.asked += 1
        if self.asked - 1 == self.fails:
            raise ConnectionError("cut")
        events = []
        async with self._room:
            for place in range(max_new_tokens - self.short):
                await asyncio.sleep(self.gap if place else 1.0)
                events.append(TokenEvent(place, time.perf_counter()))
        return events

    def close_streams(self) -> None:
        del self._room


def measured(reference: Any, candidate: Any) -> ThroughputMeasure:
    pair: Any = SimpleNamespace(
        release=SimpleNamespace(plan=lambda kind: PLAN),
        reference=reference,
        candidate=candidate,
        request=lambda length, index: [index % 7] * length,
    )
    return ThroughputMeasure(pair)


@pytest.fixture(autouse=True)
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(coroutine: Any) -> Any:
        clock = VirtualClock()
        try:
            return clock.run(coroutine)
        finally:
            clock.close()

    monkeypatch.setattr(module, "asyncio", SimpleNamespace(run=run))


@pytest.mark.parametrize("candidate_first", [True, False])
def test_tokens_a_second_at_each_concurrency(candidate_first: bool) -> None:
    sample = measured(TimedEngine("r"), TimedEngine("c", gap=0.5)).pair(0, candidate_first)
    request = {"reference": 1 + 4 * 0.25, "candidate": 1 + 4 * 0.5}  # seconds
    for name, seconds in request.items():
        found = sample.details["tokens_per_second"][name]
        assert found == pytest.approx([5 / seconds, 4 * 5 / seconds], rel=1e-3)
    ratio = request["reference"] / request["candidate"]
    assert sample.values["throughput_ratio"] == pytest.approx(math.log(ratio), rel=1e-3)


def test_a_server_that_serves_one_at_a_time_gains_nothing_by_clients() -> None:
    sample = measured(TimedEngine("r"), TimedEngine("c", parallel=1)).pair(0, True)
    one, four = sample.details["tokens_per_second"]["candidate"]
    assert one == pytest.approx(four, rel=1e-3)
    # 8 requests of 2 s, twice one by one; the reference serves four at once
    assert sample.values["throughput_ratio"] == pytest.approx(math.log(20 / 32), rel=1e-3)


@pytest.mark.parametrize("fault", ["fails", "short"])
def test_times_of_different_work_are_not_compared(fault: str) -> None:
    candidate = TimedEngine("c", fails=3 if fault == "fails" else -1)
    candidate.short = fault == "short"
    with pytest.raises(InvalidComparisonError, match=r"engine 'c' at concurrency 1: "):
        measured(TimedEngine("r"), candidate).pair(0, True)


def test_an_objective_counts_the_wait_for_a_server_that_is_too_slow() -> None:
    quick = measured(TimedEngine("r"), TimedEngine("c", parallel=99)).objective(0)
    assert quick.values["objective_share"] == 1.0
    slow = measured(TimedEngine("r"), TimedEngine("c", parallel=1)).objective(0)
    assert slow.values["objective_share"] <= 2 / 8  # each request takes twice the mean gap
    assert slow.details["goodput"] < quick.details["goodput"]


def test_requests_that_fail_do_not_keep_an_objective() -> None:
    sample = measured(TimedEngine("r"), TimedEngine("c", parallel=99, fails=2)).objective(0)
    assert sample.values["objective_share"] == 7 / 8
    assert sample.details["failed"] == {"ConnectionError: cut": 1}
    assert sample.details["notes"]
