"""LatencyMeterSuite and MemoryMeterSuite accept the references, and meters of other designs."""

from __future__ import annotations

import re
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from infopt_reference import measurement as reference
from infopt_suites import LatencyMeterSuite, MemoryMeterSuite
from infopt_suites.measurement import (
    Chunk,
    DeviceMemory,
    HeapMemory,
    LoadResult,
    Machine,
    PageMemory,
)
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.benchmark import Timer

CLEAR_REFERENCES = Path("/proc/self/clear_refs")


class ReferenceMeter(reference.LatencyMeter):
    """`infopt_reference.measurement.LatencyMeter` as the suite's protocol."""

    def time_request(self, send: Callable[[], Iterator[Chunk]]) -> Any:  # type: ignore[override]
        found = super().time_request(lambda: (chunk.token_ids for chunk in send()))
        return SimpleNamespace(**vars(found), tokens=len(found.token_ids))

    def quantile(self, samples: Sequence[float], level: float) -> float:
        return reference.quantile(samples, level)

    async def run_load(
        self,
        send: Callable[[int], AsyncIterator[Chunk]],
        due: Sequence[float],
        concurrency: int | None,
    ) -> list[LoadResult]:
        async def token_ids(place: int) -> AsyncIterator[tuple[int, ...]]:
            async for chunk in send(place):
                yield chunk.token_ids

        results = await reference.open_load(
            lambda place: reference.arrivals_of(token_ids(place), time.perf_counter),
            due,
            concurrency=concurrency,
            clock=time.perf_counter,
        )
        return [
            LoadResult(True) if r.timing is None else LoadResult(False, r.timing.ttft, r.timing.e2e)
            for r in results
        ]

    def pooled_quantile(self, workers: Sequence[Sequence[float]], level: float) -> float:
        return reference.quantile((x for worker in workers for x in worker), level)


class TestReference(LatencyMeterSuite):
    capabilities = frozenset(LatencyMeterSuite.offers)

    @pytest.fixture
    def make_latency_meter(self):
        return lambda machine: ReferenceMeter(machine.clock, machine.synchronize)


class EventMeter:
    """Marks on the device's stream, as CUDA events are."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def time(self, call: Callable[[], Any], samples: int, warmup: int) -> list[float]:
        for _ in range(warmup):
            call()
        marks = []
        for _ in range(samples):
            self.machine.synchronize()
            first = self.machine.event()
            call()
            marks.append((first, self.machine.event()))
        self.machine.synchronize()
        return [first.seconds_until(last) for first, last in marks]


class TestEvents(LatencyMeterSuite):
    @pytest.fixture
    def make_latency_meter(self):
        return EventMeter


class TorchTimer:
    """`torch.utils.benchmark.Timer`, which warms up anew before each measurement."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def clock(self) -> float:
        self.machine.synchronize()
        return self.machine.clock()

    def time(self, call: Callable[[], Any], samples: int, warmup: int) -> list[float]:
        timer = Timer("call()", globals={"call": call}, timer=self.clock)
        for _ in range(warmup):
            call()
        return [timer.timeit(1).mean for _ in range(samples)]


class TestTorchTimer(LatencyMeterSuite):
    in_a_row = False

    @pytest.fixture
    def make_latency_meter(self):
        return TorchTimer


class TestPytestBenchmark(LatencyMeterSuite):
    """pytest-benchmark's `pedantic`, with a timer that waits for the device."""

    @pytest.fixture
    def make_latency_meter(self, request):
        session = request.config._benchmarksession

        def make(machine: Machine) -> Any:
            def clock() -> float:
                machine.synchronize()
                return machine.clock()

            def timed(call: Callable[[], Any], samples: int, warmup: int) -> list[float]:
                benchmark = BenchmarkFixture(
                    request.node,
                    add_stats=lambda stats: None,
                    logger=session.logger,
                    warner=request.node.warn,
                    disabled=False,
                    **{**session.options, "timer": SimpleNamespace(target=clock)},
                )
                benchmark.pedantic(call, rounds=samples, warmup_rounds=warmup)
                return list(benchmark.stats.stats.data)

            return SimpleNamespace(time=timed)

        return make


class DeviceMeter(reference.MemoryMeter):
    """`infopt_reference.measurement.MemoryMeter` on a device, with what its allocator reserves."""

    def __init__(self, memory: DeviceMemory) -> None:
        super().__init__(memory)
        self.memory = memory

    def measure(self, call: Callable[[], Any]) -> Any:
        found = super().measure(call)
        return SimpleNamespace(**vars(found), peak_reserved_bytes=self.memory.peak_reserved())


class TestMemoryReference(MemoryMeterSuite):
    capabilities = frozenset(MemoryMeterSuite.offers)

    @pytest.fixture
    def make_memory_meter(self):
        return DeviceMeter


@dataclass
class Growth:
    before_bytes: int
    peak_bytes: int
    after_bytes: int


class TracedMeter:
    """Python's `tracemalloc`, which is on all the while: what it did not see come, it does not see
    go."""

    def __init__(self, memory: HeapMemory) -> None:
        self.memory = memory

    def measure(self, call: Callable[[], Any]) -> Growth:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        call()
        after, peak = tracemalloc.get_traced_memory()
        return Growth(0, peak - before, after - before)


class TestTracemalloc(MemoryMeterSuite):
    space = "heap"
    peak_of = "growth"
    unit = 2**20
    slack = unit // 4  # what Python and the suite hold besides

    @pytest.fixture
    def make_memory_meter(self):
        tracemalloc.start()
        yield TracedMeter
        tracemalloc.stop()


class ResidentMeter:
    """The kernel's own peak of resident pages (proc_pid_status(5)), set back by `clear_refs`."""

    def __init__(self, memory: PageMemory) -> None:
        self.memory = memory
        self.process = psutil.Process()

    def measure(self, call: Callable[[], Any]) -> Growth:
        CLEAR_REFERENCES.write_text("5")
        before = self.process.memory_info().rss
        call()
        after = self.process.memory_info().rss
        (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return Growth(0, max(int(peak) * 1024 - before, 0), after - before)


@pytest.mark.skipif(not CLEAR_REFERENCES.exists(), reason="only Linux sets a peak back")
class TestResident(MemoryMeterSuite):
    space = "pages"
    peak_of = "growth"
    unit = 2**22
    slack = unit // 3  # the kernel counts pages in batches, and Python holds some besides
    examples = 5

    @pytest.fixture
    def make_memory_meter(self):
        return ResidentMeter
