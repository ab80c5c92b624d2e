"""Properties of many requests: quantiles of their times, and times under load."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

import numpy as np
from hypothesis import strategies as st

from ..base import requires
from ..batching.clock import LATENESS, VirtualClock
from ..properties import for_all
from ..tally import each_case
from .protocol import Chunk, LoadResult, MakeLatencyMeter
from .request_properties import RequestProperties

LEVELS = (0.0, 0.5, 0.9, 0.95, 0.99, 1.0)
TAIL = [0.01] * 50 + [5.0]
SERVICE = 0.5  # seconds of a request on the suite's server


class LoadProperties(RequestProperties):
    """Quantiles and load."""

    topic = ""
    quantile_method: ClassVar[str] = "linear"

    @requires("quantiles")
    def test_a_quantile_is_of_all_samples(self, make_latency_meter: MakeLatencyMeter) -> None:
        """By the declared one of NumPy's methods; samples come in any order, and stay in it.

        Usual causes: samples that are not sorted, an index that is cut off or one too far, a filter
        of outliers that takes the tail, or everything where all samples are equal.
        """

        def holds(samples: list[float]) -> None:
            meter = self._trial(make_latency_meter).meter
            given = list(samples)
            for level in LEVELS:
                found, true = meter.quantile(given, level), self._quantile(samples, level)
                assert self._close(found, true), (
                    f"the {level} quantile of {samples} is {found}, and {true} by the method "
                    f"{self.quantile_method!r}"
                )
            assert given == samples, "the samples were changed"

        traps = [("equal", [0.25] * 10), ("one", [0.25]), ("a tail", TAIL), ("falling", TAIL[::-1])]
        times = st.lists(st.integers(1, 4096).map(lambda x: x / 1024), min_size=1, max_size=40)
        for_all(holds, times, traps=traps)

    @requires("pooled")
    def test_workers_are_pooled(self, make_latency_meter: MakeLatencyMeter) -> None:
        """A mean of quantiles is no quantile.

        Usual causes: the mean, or the largest, of each worker's p99.
        """
        groups = ([[1.0] * 99, [2.0]], [TAIL, [0.5] * 10, [0.25]])
        for workers in each_case(groups):
            meter = self._trial(make_latency_meter).meter
            for level in LEVELS:
                found = meter.pooled_quantile(workers, level)
                true = self._quantile([x for worker in workers for x in worker], level)
                assert self._close(found, true), (
                    f"the {level} quantile of {workers} is {found}, of all samples {true}"
                )

    @requires("load")
    def test_latency_counts_from_when_a_request_was_due(
        self, make_latency_meter: MakeLatencyMeter
    ) -> None:
        """A server that is too slow makes requests wait, in its queue or in the client's.

        Usual causes: a clock that starts behind the semaphore, or when a worker is free: those who
        would have waited longest are left out (coordinated omission).
        """
        for concurrency in each_case((None, 1, 2)):
            due = [place * 0.125 for place in range(12)]
            server, results = self._load(make_latency_meter, due, concurrency)
            for place, result in enumerate(results):
                assert not result.failed, f"request {place} is told as failed"
                self._near(server, result.ttft, server.first[place] - due[place], f"TTFT {place}")
                self._near(server, result.e2e, server.last[place] - due[place], f"E2E {place}")

    @requires("load")
    def test_requests_are_sent_when_they_are_due(
        self, make_latency_meter: MakeLatencyMeter
    ) -> None:
        """Whether or not earlier ones were answered, but for the limit that was asked for.

        Usual causes: a loop that awaits each answer; pauses from the end of the last request; all
        requests at once.
        """
        for concurrency in each_case((None, 3)):
            due = [0.0, 0.0, 0.25, 2.0, 2.0, 2.0, 2.0, 2.125]
            server, _ = self._load(make_latency_meter, due, concurrency)
            assert sorted(server.sent) == list(range(len(due))), f"sent: {sorted(server.sent)}"
            assert server.most <= (concurrency or len(due)), f"{server.most} were under way at once"
            if concurrency is None:
                for place, moment in enumerate(due):
                    self._near(server, server.sent[place], moment, f"request {place} was sent at")

    @requires("load")
    def test_failures_are_told_and_have_no_times(
        self, make_latency_meter: MakeLatencyMeter
    ) -> None:
        """Each request has one result, and one that fails harms no other.

        Usual causes: failures that are left out, counted as fast answers, or end the run.
        """
        failing = {1: 0, 4: 1, 6: 0}  # after so many tokens
        due = [place * 0.25 for place in range(8)]
        server, results = self._load(make_latency_meter, due, 2, failing)
        assert len(results) == len(due), f"{len(results)} results of {len(due)} requests"
        for place, result in enumerate(results):
            assert result.failed == (place in failing), f"request {place}: failed={result.failed}"
            if place in failing:
                assert result.e2e is None, f"failed request {place} took {result.e2e} s"
            else:
                self._near(server, result.e2e, server.last[place] - due[place], f"E2E {place}")

    def _load(
        self,
        make: MakeLatencyMeter,
        due: Sequence[float],
        concurrency: int | None,
        failing: dict[int, int] | None = None,
    ) -> tuple[SerialServer, list[LoadResult]]:
        clock = VirtualClock()
        try:
            server = SerialServer(failing or {})
            meter: Any = self._trial(make).meter

            async def run() -> list[LoadResult]:
                server.begin()
                return list(await meter.run_load(server.send, due, concurrency))

            return server, clock.run(run())
        finally:
            clock.close()

    def _near(self, server: SerialServer, found: float | None, true: float, what: str) -> None:
        slack = self.resolution + server.waits * LATENESS
        assert found is not None, f"{what} is missing"
        assert abs(found - true) <= slack, f"{what} is {found}, the server's record says {true}"

    def _quantile(self, samples: Sequence[float], level: float) -> float:
        return float(np.quantile(samples, level, method=self.quantile_method))  # type: ignore[call-overload]

    def _close(self, found: float, true: float) -> bool:
        return abs(found - true) <= 4 * sys.float_info.epsilon * abs(true)


class SerialServer:
    """Serves one request after the other, each for `SERVICE` seconds, and notes when; times count
    from `begin`."""

    def __init__(self, failing: dict[int, int]) -> None:
        self._failing = failing
        self._turn = asyncio.Lock()
        self.sent: dict[int, float] = {}
        self.first: dict[int, float] = {}
        self.last: dict[int, float] = {}
        self.most = self._under_way = self.waits = 0
        self._began = 0.0

    def begin(self) -> None:
        self._began = asyncio.get_running_loop().time()

    def _now(self) -> float:
        self.waits += 2
        return asyncio.get_running_loop().time() - self._began

    async def send(self, place: int) -> AsyncIterator[Chunk]:
        self.sent[place] = self._now()
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        try:
            async with self._turn:
                yield Chunk(kind="other")
                for token in range(2):
                    await asyncio.sleep(SERVICE / 2)
                    if self._failing.get(place) == token:
                        raise ConnectionError("planted by the suite")
                    self.last[place] = self._now()
                    self.first.setdefault(place, self.last[place])
                    yield Chunk((token,), "word")
        finally:
            self._under_way -= 1
