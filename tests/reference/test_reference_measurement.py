"""Definitions of times, quantiles, arrivals, and load on virtual time."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.measurement import (
    LoadResult,
    LoadSummary,
    Objective,
    RequestTiming,
    Roofline,
    arrivals_of,
    bursts,
    closed_load,
    measure_roofline,
    open_load,
    poisson,
    quantile,
    read_trace,
)
from infopt_suites.batching.clock import LATENESS, VirtualClock
from scipy import stats

TIMES = st.lists(st.floats(0, 1e6), min_size=1, max_size=40)


@given(TIMES, st.floats(0, 1))
def test_a_quantile_is_numpys(samples: list[float], level: float) -> None:
    assert quantile(samples, level) == np.quantile(samples, level)


@pytest.mark.parametrize(("samples", "level"), [([], 0.5), ([math.nan], 0.5), ([1.0], 1.5)])
def test_what_has_no_quantile(samples: list[float], level: float) -> None:
    with pytest.raises(ValueError, match=r"quantile"):
        quantile(samples, level)


@given(st.integers(1, 9), st.integers(0, 9))
def test_bursts_have_their_rate(size: int, count: int) -> None:
    due = bursts(size, 2.0, count * size)
    assert all(due.count(moment) == size for moment in due)
    assert sorted({*due}) == [place * size / 2 for place in range(count)]


def test_poisson_arrivals_are_exponential_and_the_seeds() -> None:
    due = poisson(5.0, 4000, seed=1)
    assert due == poisson(5.0, 4000, seed=1) != poisson(5.0, 4000, seed=2)
    assert due[0] == 0
    assert stats.kstest(np.diff(due), stats.expon(scale=1 / 5).cdf).pvalue > 1e-3


def test_a_trace_is_read_in_order() -> None:
    rows = [(2500, 9, 3), (500, 4, 1)]
    keys = ("timestamp", "input_length", "output_length")
    lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
    assert [(r.due, r.prompt_tokens, r.new_tokens) for r in read_trace([*lines, ""])] == [
        (0.0, 4, 1),
        (2.0, 9, 3),
    ]


@pytest.mark.parametrize("line", ["{", "[]", '{"timestamp": 1}', "", '{"timestamp": -1}'])
def test_a_trace_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="trace"):
        read_trace([line])


class TimedServer:
    """Answers each request with tokens at known times; ``parallel`` requests at once."""

    def __init__(self, first: float, gap: float, tokens: int, parallel: int) -> None:
        self.first, self.gap, self.tokens = first, gap, tokens
        self._room = asyncio.Semaphore(parallel)
        self.moments: dict[int, list[float]] = {}

    async def stream(self, index: int) -> AsyncIterator[list[int]]:
        async with self._room:
            for place in range(self.tokens):
                await asyncio.sleep(self.gap if place else self.first)
                self.moments.setdefault(index, []).append(time.perf_counter())
                yield [place]

    def send(self, index: int) -> Awaitable[list[tuple[int, float]]]:
        return arrivals_of(self.stream(index), time.perf_counter)


def on_virtual_time(run: Callable[[], Awaitable[Any]]) -> Any:
    clock = VirtualClock()

    async def begun() -> Any:
        return time.perf_counter(), await run()

    try:
        return clock.run(begun())
    finally:
        clock.close()


@given(
    st.lists(st.integers(0, 64).map(lambda x: x / 8), min_size=1, max_size=12),
    st.integers(1, 3),
    st.sampled_from([None, 1, 2, 5]),
)
def test_an_open_load_counts_from_when_requests_are_due(
    due: list[float], parallel: int, concurrency: int | None
) -> None:
    server = TimedServer(1.0, 0.125, 3, parallel)
    began, results = on_virtual_time(
        lambda: open_load(server.send, due, concurrency=concurrency, clock=time.perf_counter)
    )
    slack = 8 * len(due) * LATENESS
    for index, result in enumerate(results):
        moments = [moment - began for moment in server.moments[index]]
        assert result.due == due[index] <= result.sent + slack
        assert abs(result.timing.ttft - (moments[0] - due[index])) < slack
        assert abs(result.timing.e2e - (moments[-1] - due[index])) < slack
        assert abs(result.timing.tpot - 0.125) < slack


def test_a_closed_load_has_as_many_under_way_as_clients() -> None:
    server = TimedServer(1.0, 0.5, 3, parallel=99)
    _, results = on_virtual_time(
        lambda: closed_load(server.send, 10, clients=4, clock=time.perf_counter)
    )
    summary = LoadSummary.of(results)
    assert (summary.requests, summary.failed, summary.tokens) == (10, 0, 30)
    assert summary.seconds == pytest.approx(3 * 2.0, rel=1e-3)  # 4, 4 and 2 requests of 2 s
    assert summary.tokens_per_second == pytest.approx(30 / 6, rel=1e-3)
    assert summary.requests_per_second == pytest.approx(10 / 6, rel=1e-3)
    assert [round(result.due) for result in results] == [0] * 4 + [2] * 4 + [4] * 2


def test_failures_are_told_by_reason() -> None:
    server = TimedServer(1.0, 0.5, 2, parallel=99)

    async def send(index: int) -> list[tuple[int, float]]:
        if index == 1:
            raise ConnectionError("cut")
        if index == 2:
            return []
        if index == 3:
            await asyncio.sleep(60)
        return list(await server.send(index))

    _, results = on_virtual_time(
        lambda: open_load(send, [0.0] * 5, timeout=9.0, clock=time.perf_counter)
    )
    assert [bool(result.error) for result in results] == [False, True, True, True, False]
    assert [result.timing is None for result in results] == [False, True, True, True, False]
    errors = LoadSummary.of(results).errors
    assert {"ConnectionError: cut": 1, "took longer than 9 s": 1}.items() <= errors.items()
    assert sum(errors.values()) == 3


def test_a_load_that_is_cancelled_leaves_no_request_behind() -> None:
    ended = []

    async def send(index: int) -> list[tuple[int, float]]:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(index)
        return []

    async def run() -> None:
        task = asyncio.ensure_future(open_load(send, [0.0] * 3, clock=time.perf_counter))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    on_virtual_time(run)
    assert sorted(ended) == [0, 1, 2]


def test_an_objective_is_kept_by_what_has_times() -> None:
    timing = RequestTiming.of(0.0, [1.0, 1.5], [7, 8])
    assert Objective(ttft=1.0, tpot=0.5, e2e=1.5).keeps(timing)
    assert not Objective(ttft=0.9).keeps(timing)
    assert not Objective(tpot=0.4).keeps(timing)
    assert Objective(tpot=0.4).keeps(RequestTiming.of(0.0, [1.0], [7]))
    assert not Objective().keeps(None)


def test_a_load_without_requests_has_no_summary() -> None:
    with pytest.raises(ValueError, match="without requests"):
        LoadSummary.of(list[LoadResult]())


@given(peak=st.floats(1, 1e15), bandwidth=st.floats(1, 1e13), intensity=st.floats(1e-3, 1e4))
def test_a_roof_is_bound_by_memory_up_to_its_ridge_and_by_arithmetic_beyond(
    peak: float, bandwidth: float, intensity: float
) -> None:
    roofline = Roofline(peak, bandwidth)
    assert roofline.roof(roofline.ridge) == pytest.approx(peak)
    bound = peak if intensity > roofline.ridge else bandwidth * intensity
    assert roofline.roof(intensity) == pytest.approx(bound)


def test_the_fastest_round_counts_and_the_first_does_not() -> None:
    moments = itertools.accumulate([0, 0.5, 1, 4, 1, 2, 1, 3] * 2)
    clock = map(float, moments)
    cpu = torch.device("cpu")
    roofline = measure_roofline(cpu, torch.float32, rounds=3, clock=lambda: next(clock))
    assert roofline == Roofline(2 * 512**3 / 2, 4096 * 8192 * 4 / 2)
    with pytest.raises(ValueError, match="give 1 or more"):
        measure_roofline(cpu, torch.float32, rounds=0)
