"""A small latency meter that is right, and the same with faults that real ones have shipped."""

from __future__ import annotations

import asyncio
import gc
import math
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from infopt_suites.measurement import Chunk, LatencyMeterSuite, LoadResult, Machine

AREA = "7 latency meters"
Call = Callable[[], Any]


@dataclass
class Timed:
    """A request's times."""

    ttft: float
    itl: list[float]
    tpot: float | None
    e2e: float
    tokens: int


@dataclass
class SmallMeter:
    """Every capability, in few lines."""

    machine: Machine
    capabilities: ClassVar[Any] = frozenset(LatencyMeterSuite.offers)

    # Calls

    def now(self) -> float:
        return time.perf_counter()

    def wait_before(self) -> None:
        self.machine.synchronize()

    def wait_behind(self) -> None:
        self.machine.synchronize()

    def time(self, call: Call, samples: int, warmup: int) -> Sequence[float]:
        self.warm(call, warmup)
        return self.kept([self.sample(call) for _ in range(samples)])

    def warm(self, call: Call, warmup: int) -> None:
        for _ in range(warmup):
            call()

    def sample(self, call: Call) -> float:
        self.wait_before()
        started = self.now()
        self.made(call)
        self.wait_behind()
        return self.now() - started

    def made(self, call: Call) -> None:
        call()

    def kept(self, times: list[float]) -> Sequence[float]:
        return times

    def time_async(self, call: Call, samples: int, warmup: int) -> Sequence[float]:
        async def run() -> list[float]:
            for _ in range(warmup):
                await call()
            return [await self.sample_async(call) for _ in range(samples)]

        return asyncio.run(run())

    async def sample_async(self, call: Call) -> float:
        self.wait_before()
        started = self.now()
        await call()
        self.wait_behind()
        return self.now() - started

    def compare(
        self, calls: Mapping[str, Call], samples: int, warmup: int
    ) -> Mapping[str, Sequence[float]]:
        for call in calls.values():
            self.warm(call, warmup)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(samples):
            for name, call in calls.items():
                times[name].append(self.sample(call))
        return times

    def compare_results(
        self, calls: Mapping[str, Callable[[], Sequence[float]]], samples: int, warmup: int
    ) -> Mapping[str, Sequence[float]]:
        true, *others = (list(call()) for call in calls.values())
        for result in others:
            if not (len(result) == len(true) and self.alike(true, result)):
                raise ValueError("the results differ")
        return self.compare(calls, samples, warmup)

    def alike(self, true: list[float], result: list[float]) -> bool:
        return all(math.isclose(x, y, rel_tol=1e-3) for x, y in zip(true, result, strict=True))

    # Requests

    def time_request(self, send: Callable[[], Iterator[Chunk]]) -> Timed:
        self.wait_before()
        sent = self.now()
        arrivals: list[float] = []
        for chunk in send():
            arrivals += [self.now()] * self.counted(chunk)
        return self.timed(sent, arrivals)

    def counted(self, chunk: Chunk) -> int:
        return len(chunk.token_ids)

    def timed(self, sent: float, arrivals: list[float]) -> Timed:
        gaps = [b - a for a, b in pairwise(arrivals)]
        tpot = (arrivals[-1] - arrivals[0]) / len(gaps) if gaps else None
        return Timed(arrivals[0] - sent, gaps, tpot, arrivals[-1] - sent, len(arrivals))

    # Many requests

    def quantile(self, samples: Sequence[float], level: float) -> float:
        ordered = sorted(samples)
        place = level * (len(ordered) - 1)
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        return low + (high - low) * (place - math.floor(place))

    def pooled_quantile(self, workers: Sequence[Sequence[float]], level: float) -> float:
        return self.quantile([x for worker in workers for x in worker], level)

    async def run_load(
        self,
        send: Callable[[int], AsyncIterator[Chunk]],
        due: Sequence[float],
        concurrency: int | None,
    ) -> Sequence[LoadResult]:
        began = time.perf_counter()
        room = asyncio.Semaphore(concurrency or len(due))

        async def one(place: int) -> LoadResult:
            await self.until(began + due[place])
            before = time.perf_counter()
            async with room:
                return await self.request(send(place), self.start(began + due[place], before))

        return self.results(await asyncio.gather(*(one(place) for place in range(len(due)))))

    async def until(self, moment: float) -> None:
        await asyncio.sleep(max(0.0, moment - time.perf_counter()))

    def start(self, due: float, queued: float) -> float:
        return due

    async def request(self, stream: AsyncIterator[Chunk], start: float) -> LoadResult:
        arrivals: list[float] = []
        try:
            async for chunk in stream:
                arrivals += [time.perf_counter()] * len(chunk.token_ids)
        except ConnectionError:
            return self.failed(start, arrivals)
        return LoadResult(False, arrivals[0] - start, arrivals[-1] - start)

    def failed(self, start: float, arrivals: list[float]) -> LoadResult:
        return LoadResult(True)

    def results(self, found: list[LoadResult]) -> list[LoadResult]:
        return found


# Sound meters of other designs


class Nanoseconds(SmallMeter):
    def now(self) -> float:
        return time.perf_counter_ns() * 1e-9


class Monotonic(SmallMeter):
    def now(self) -> float:
        return time.monotonic()


class Patient(SmallMeter):
    """Warms up more than it is asked to."""

    def warm(self, call: Call, warmup: int) -> None:
        super().warm(call, warmup + 1 if warmup else 0)


class Marked(SmallMeter):
    """Marks on the device's stream in place of a clock."""

    capabilities: ClassVar[Any] = SmallMeter.capabilities - {"streams"}

    def sample(self, call: Call) -> float:
        self.machine.synchronize()
        first = self.machine.event()
        call()
        last = self.machine.event()
        self.machine.synchronize()
        return first.seconds_until(last)


class ByChunks(SmallMeter):
    """ITL of chunks, as servers' own benchmarks have it; TPOT of tokens."""

    itl_of = "chunks"

    def time_request(self, send: Callable[[], Iterator[Chunk]]) -> Timed:
        self.wait_before()
        sent = self.now()
        arrivals, moments = list[float](), list[float]()
        for chunk in send():
            moments += [self.now()] if chunk.token_ids else []
            arrivals += [self.now()] * len(chunk.token_ids)
        found = self.timed(sent, arrivals)
        found.itl = [b - a for a, b in pairwise(moments)]
        return found


class NearestRank(SmallMeter):
    quantile_method = "inverted_cdf"

    def quantile(self, samples: Sequence[float], level: float) -> float:
        return sorted(samples)[max(math.ceil(level * len(samples)) - 1, 0)]


SOUND = (SmallMeter, Nanoseconds, Monotonic, Patient, Marked, ByChunks, NearestRank)


# Faults of timed calls


class NoWaitBefore(SmallMeter):
    def wait_before(self) -> None:
        pass


class NoWaitBehind(SmallMeter):
    def wait_behind(self) -> None:
        pass


class WaitsOnceALoop(SmallMeter):
    """One synchronisation behind all calls: the last sample has what is left."""

    def time(self, call: Call, samples: int, warmup: int) -> Sequence[float]:
        self.warm(call, warmup)
        self.wait_before()
        times = []
        for place in range(samples):
            started = self.now()
            call()
            if place == samples - 1:
                self.wait_behind()
            times.append(self.now() - started)
        return times


class WaitsAfterTheClock(SmallMeter):
    def sample(self, call: Call) -> float:
        self.wait_before()
        started = self.now()
        call()
        elapsed = self.now() - started
        self.wait_behind()
        return elapsed


class WaitsForOneStreamBefore(SmallMeter):
    def wait_before(self) -> None:
        self.machine.synchronize(0)


class WaitsForOneStreamBehind(SmallMeter):
    def wait_behind(self) -> None:
        self.machine.synchronize(0)


class MarksOneStream(Marked):
    capabilities: ClassVar[Any] = SmallMeter.capabilities


class NoWarmUp(SmallMeter):
    def warm(self, call: Call, warmup: int) -> None:
        pass


class KeepsWarmUp(SmallMeter):
    def time(self, call: Call, samples: int, warmup: int) -> Sequence[float]:
        return [self.sample(call) for _ in range(warmup + samples)]


class WarmUpAmongTheSamples(SmallMeter):
    def time(self, call: Call, samples: int, warmup: int) -> Sequence[float]:
        return [self.sample(call) for _ in range(samples)][warmup:]


class WarmsUpOnce(SmallMeter):
    def warm(self, call: Call, warmup: int) -> None:
        super().warm(call, min(warmup, 1))


class WarmUpIsNotWaitedFor(SmallMeter):
    """It synchronises within the samples alone, behind each."""

    def wait_before(self) -> None:
        pass

    def time(self, call: Call, samples: int, warmup: int) -> Sequence[float]:
        if not warmup:
            self.machine.synchronize()
        return super().time(call, samples, warmup)


class MeanForAll(SmallMeter):
    def kept(self, times: list[float]) -> Sequence[float]:
        return [statistics.fmean(times)] * len(times)


class OneBlock(SmallMeter):
    def time(self, call: Call, samples: int, warmup: int) -> Sequence[float]:
        self.warm(call, warmup)

        def block() -> None:
            for _ in range(samples):
                call()

        return [self.sample(block) / samples] * samples


class Sorted(SmallMeter):
    def kept(self, times: list[float]) -> Sequence[float]:
        return sorted(times)


class DropsOutliers(SmallMeter):
    def kept(self, times: list[float]) -> Sequence[float]:
        middle = statistics.median(times)
        spread = statistics.median(abs(x - middle) for x in times)
        return [x for x in times if abs(x - middle) < 3 * spread]


class ReplacesOutliers(SmallMeter):
    def kept(self, times: list[float]) -> Sequence[float]:
        middle = statistics.median(times)
        return [min(x, 1.5 * middle) for x in times]


class Calendar(SmallMeter):
    def now(self) -> float:
        return time.time()


class CalendarNanoseconds(SmallMeter):
    def now(self) -> float:
        return time.time_ns() / 1e9


class ProcessTime(SmallMeter):
    def now(self) -> float:
        return time.process_time()


class Milliseconds(SmallMeter):
    def kept(self, times: list[float]) -> Sequence[float]:
        return [1e3 * x for x in times]


class CoarseClock(SmallMeter):
    def now(self) -> float:
        return round(time.perf_counter(), 2)


class SwallowsErrors(SmallMeter):
    def made(self, call: Call) -> None:
        with suppress(ConnectionError):
            call()


class TriesAgain(SmallMeter):
    def made(self, call: Call) -> None:
        try:
            call()
        except ConnectionError:
            call()


class LeavesCollectorOff(SmallMeter):
    def time(self, call: Call, samples: int, warmup: int) -> Sequence[float]:
        gc.disable()
        times = super().time(call, samples, warmup)
        gc.enable()
        return times


# Faults of coroutines


class NeverAwaits(SmallMeter):
    async def sample_async(self, call: Call) -> float:
        self.wait_before()
        started = self.now()
        call().close()
        self.wait_behind()
        return self.now() - started


class AwaitsWithoutDevice(SmallMeter):
    async def sample_async(self, call: Call) -> float:
        started = self.now()
        await call()
        return self.now() - started


class AwaitsInProcessTime(SmallMeter):
    async def sample_async(self, call: Call) -> float:
        started = time.process_time()
        await call()
        return time.process_time() - started


class LoopForEach(SmallMeter):
    def time_async(self, call: Call, samples: int, warmup: int) -> Sequence[float]:
        for _ in range(warmup):
            asyncio.run(call())
        return [asyncio.run(self.sample_async(call)) for _ in range(samples)]


# Faults of several calls


class WarmsUpTheFirst(SmallMeter):
    def compare(
        self, calls: Mapping[str, Call], samples: int, warmup: int
    ) -> Mapping[str, Sequence[float]]:
        self.warm(next(iter(calls.values())), warmup)
        return {name: [self.sample(call) for _ in range(samples)] for name, call in calls.items()}


class NamesMixedUp(SmallMeter):
    def compare(
        self, calls: Mapping[str, Call], samples: int, warmup: int
    ) -> Mapping[str, Sequence[float]]:
        found = super().compare(calls, samples, warmup)
        return dict(zip(sorted(found), found.values(), strict=True))


class OneAfterTheOther(SmallMeter):
    def compare(
        self, calls: Mapping[str, Call], samples: int, warmup: int
    ) -> Mapping[str, Sequence[float]]:
        return {name: self.time(call, samples, warmup) for name, call in calls.items()}


class InBlocksOfFour(SmallMeter):
    def compare(
        self, calls: Mapping[str, Call], samples: int, warmup: int
    ) -> Mapping[str, Sequence[float]]:
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(samples // 4):
            for name, call in calls.items():
                times[name] += self.time(call, 4, warmup)
        return times


class AbsoluteTolerance(SmallMeter):
    def alike(self, true: list[float], result: list[float]) -> bool:
        return all(abs(x - y) < 1e-4 or abs(x - y) < 1e-3 * abs(x) for x, y in zip(true, result))  # noqa: B905


class NeverChecks(SmallMeter):
    def alike(self, true: list[float], result: list[float]) -> bool:
        return True


class NotANumberPasses(SmallMeter):
    def alike(self, true: list[float], result: list[float]) -> bool:
        return not any(abs(x - y) > 1e-3 * abs(x) for x, y in zip(true, result, strict=True))


class BitsAlone(SmallMeter):
    def alike(self, true: list[float], result: list[float]) -> bool:
        return true == result


# Faults of requests


class FirstEvent(SmallMeter):
    """TTFT at the first event, whatever it holds."""

    def time_request(self, send: Callable[[], Iterator[Chunk]]) -> Timed:
        moments = list[float]()
        self.wait_before()
        sent = self.now()
        arrivals: list[float] = []
        for chunk in send():
            moments.append(self.now())
            arrivals += [moments[-1]] * len(chunk.token_ids)
        found = self.timed(sent, arrivals)
        found.ttft = moments[0] - sent
        return found


class FirstText(SmallMeter):
    def counted(self, chunk: Chunk) -> int:
        return len(chunk.token_ids) if chunk.text else 0


class FirstContent(SmallMeter):
    def counted(self, chunk: Chunk) -> int:
        return len(chunk.token_ids) if chunk.kind == "answer" else 0


class SentByTheFirstEvent(SmallMeter):
    """The clock starts when the server begins to answer."""

    def time_request(self, send: Callable[[], Iterator[Chunk]]) -> Timed:
        self.wait_before()
        stream = send()
        sent = self.now()
        arrivals: list[float] = []
        for chunk in stream:
            arrivals += [self.now()] * len(chunk.token_ids)
        return self.timed(sent, arrivals)


class FirstTokenIsAGap(SmallMeter):
    def timed(self, sent: float, arrivals: list[float]) -> Timed:
        found = super().timed(sent, arrivals)
        found.itl.insert(0, found.ttft)
        return found


class GapsSinceSent(SmallMeter):
    def timed(self, sent: float, arrivals: list[float]) -> Timed:
        found = super().timed(sent, arrivals)
        found.itl = [arrival - sent for arrival in arrivals[1:]]
        return found


class LastGapIsLost(SmallMeter):
    def timed(self, sent: float, arrivals: list[float]) -> Timed:
        found = super().timed(sent, arrivals)
        found.itl = found.itl[:-1]
        return found


class GapsWithoutZeros(SmallMeter):
    def timed(self, sent: float, arrivals: list[float]) -> Timed:
        found = super().timed(sent, arrivals)
        found.itl = [gap for gap in found.itl if gap > 0]
        return found


class PrefillInTpot(SmallMeter):
    def timed(self, sent: float, arrivals: list[float]) -> Timed:
        found = super().timed(sent, arrivals)
        found.tpot = found.e2e / found.tokens if found.tokens > 1 else None
        return found


class TpotOverAllTokens(SmallMeter):
    def timed(self, sent: float, arrivals: list[float]) -> Timed:
        found = super().timed(sent, arrivals)
        found.tpot = (found.e2e - found.ttft) / found.tokens if found.tokens > 1 else None
        return found


class TpotOfChunks(SmallMeter):
    def timed(self, sent: float, arrivals: list[float]) -> Timed:
        found = super().timed(sent, arrivals)
        chunks = len(set(arrivals)) - 1
        found.tpot = (found.e2e - found.ttft) / chunks if chunks else None
        return found


class TpotIsMedianGap(SmallMeter):
    def timed(self, sent: float, arrivals: list[float]) -> Timed:
        found = super().timed(sent, arrivals)
        found.tpot = statistics.median(found.itl) if found.itl else None
        return found


class TpotOfOneToken(SmallMeter):
    def timed(self, sent: float, arrivals: list[float]) -> Timed:
        found = super().timed(sent, arrivals)
        found.tpot = (found.e2e - found.ttft) / max(found.tokens - 1, 1)
        return found


class CountsChunks(SmallMeter):
    def time_request(self, send: Callable[[], Iterator[Chunk]]) -> Timed:
        chunks = 0

        def counted() -> Iterator[Chunk]:
            nonlocal chunks
            for chunk in send():
                chunks += 1
                yield chunk

        found = super().time_request(counted)
        found.tokens = chunks
        return found


class CountsWords(SmallMeter):
    """Of chunks with several tokens, one: a word is a token."""

    def timed(self, sent: float, arrivals: list[float]) -> Timed:
        found = super().timed(sent, arrivals)
        found.tokens = len(set(arrivals))
        return found


class EndsWithTheStream(SmallMeter):
    def time_request(self, send: Callable[[], Iterator[Chunk]]) -> Timed:
        self.wait_before()
        sent = self.now()
        arrivals: list[float] = []
        for chunk in send():
            arrivals += [self.now()] * len(chunk.token_ids)
        found = self.timed(sent, arrivals)
        found.e2e = self.now() - sent
        return found


class CutIsAnEnd(SmallMeter):
    def time_request(self, send: Callable[[], Iterator[Chunk]]) -> Timed:
        def quiet() -> Iterator[Chunk]:
            try:
                yield from send()
            except ConnectionError:
                return

        return super().time_request(quiet)


class NoTokenIsZero(SmallMeter):
    def timed(self, sent: float, arrivals: list[float]) -> Timed:
        return super().timed(sent, arrivals) if arrivals else Timed(0.0, [], None, 0.0, 0)


class EarlierWorkInTtft(SmallMeter):
    def time_request(self, send: Callable[[], Iterator[Chunk]]) -> Timed:
        sent = self.now()
        self.wait_before()
        arrivals: list[float] = []
        for chunk in send():
            arrivals += [self.now()] * len(chunk.token_ids)
        return self.timed(sent, arrivals)


# Faults of quantiles


class NotSorted(SmallMeter):
    def quantile(self, samples: Sequence[float], level: float) -> float:
        place = level * (len(samples) - 1)
        low, high = samples[math.floor(place)], samples[math.ceil(place)]
        return low + (high - low) * (place - math.floor(place))


class IndexCutOff(SmallMeter):
    def quantile(self, samples: Sequence[float], level: float) -> float:
        return sorted(samples)[min(int(level * len(samples)), len(samples) - 1)]


class FiltersTheTail(SmallMeter):
    def quantile(self, samples: Sequence[float], level: float) -> float:
        middle = statistics.median(samples)
        kept = [x for x in samples if x <= 10 * middle]
        return super().quantile(kept, level)


class FiltersEverything(SmallMeter):
    """Strictly within 1.5 · IQR, which is 0 where all samples are equal."""

    def quantile(self, samples: Sequence[float], level: float) -> float:
        first, middle, third = (
            super(FiltersEverything, self).quantile(samples, q) for q in (0.25, 0.5, 0.75)
        )
        if first == third:
            samples = [x for x in samples if abs(x - middle) < 1.5 * (third - first)]
        return super().quantile(samples, level)


class SortsInPlace(SmallMeter):
    def quantile(self, samples: Any, level: float) -> float:
        samples.sort()
        return super().quantile(samples, level)


class NormalTail(SmallMeter):
    def quantile(self, samples: Sequence[float], level: float) -> float:
        if len(samples) < 2 or level in (0.0, 1.0):
            return super().quantile(samples, level)
        fitted = statistics.NormalDist(statistics.fmean(samples), statistics.stdev(samples) or 1e-9)
        return fitted.inv_cdf(level)


class MeanOfQuantiles(SmallMeter):
    def pooled_quantile(self, workers: Sequence[Sequence[float]], level: float) -> float:
        return statistics.fmean(self.quantile(worker, level) for worker in workers)


class WorstWorker(SmallMeter):
    def pooled_quantile(self, workers: Sequence[Sequence[float]], level: float) -> float:
        return max(self.quantile(worker, level) for worker in workers)


class WeightedQuantiles(SmallMeter):
    def pooled_quantile(self, workers: Sequence[Sequence[float]], level: float) -> float:
        count = sum(map(len, workers))
        return sum(self.quantile(w, level) * len(w) / count for w in workers)


# Faults under load


class StartsBehindTheSemaphore(SmallMeter):
    """Waiting for room in the client is not counted."""

    async def request(self, stream: AsyncIterator[Chunk], start: float) -> LoadResult:
        return await super().request(stream, time.perf_counter())


class StartsWithTheFirstEvent(SmallMeter):
    async def request(self, stream: AsyncIterator[Chunk], start: float) -> LoadResult:
        await anext(stream)  # the role
        return await super().request(stream, time.perf_counter())


class AwaitsEachAnswer(SmallMeter):
    async def run_load(
        self,
        send: Callable[[int], AsyncIterator[Chunk]],
        due: Sequence[float],
        concurrency: int | None,
    ) -> Sequence[LoadResult]:
        began, found = time.perf_counter(), []
        for place, moment in enumerate(due):
            await self.until(began + moment)
            found.append(await self.request(send(place), time.perf_counter()))
        return found


class PausesBetween(SmallMeter):
    """The gap to the next request begins when the last one is answered."""

    async def run_load(
        self,
        send: Callable[[int], AsyncIterator[Chunk]],
        due: Sequence[float],
        concurrency: int | None,
    ) -> Sequence[LoadResult]:
        found, last = [], 0.0
        for place, moment in enumerate(due):
            await asyncio.sleep(moment - last)
            last = moment
            found.append(await self.request(send(place), time.perf_counter()))
        return found


class AllAtOnce(SmallMeter):
    async def until(self, moment: float) -> None:
        pass


class NoLimit(SmallMeter):
    async def run_load(
        self,
        send: Callable[[int], AsyncIterator[Chunk]],
        due: Sequence[float],
        concurrency: int | None,
    ) -> Sequence[LoadResult]:
        return await super().run_load(send, due, None)


class FailuresAreFast(SmallMeter):
    def failed(self, start: float, arrivals: list[float]) -> LoadResult:
        return LoadResult(False, 0.0, time.perf_counter() - start)


class FailuresHaveTimes(SmallMeter):
    def failed(self, start: float, arrivals: list[float]) -> LoadResult:
        return LoadResult(True, None, time.perf_counter() - start)


class FailuresAreLeftOut(SmallMeter):
    def results(self, found: list[LoadResult]) -> list[LoadResult]:
        return [result for result in found if not result.failed]


class FailureEndsTheRun(SmallMeter):
    def failed(self, start: float, arrivals: list[float]) -> LoadResult:
        raise ConnectionError("a request failed")


@dataclass(frozen=True)
class MeterMutant:
    """A faulty meter, and the property that has to find it."""

    fault: type[SmallMeter]
    broken: str


_KILLED_BY: Mapping[str, tuple[type[SmallMeter], ...]] = {
    "test_each_sample_is_one_calls_time": (
        MeanForAll,
        OneBlock,
        Sorted,
        DropsOutliers,
        ReplacesOutliers,
        Milliseconds,
        CoarseClock,
    ),
    "test_the_device_is_waited_for": (NoWaitBehind, WaitsOnceALoop, WaitsAfterTheClock),
    "test_earlier_work_is_not_charged": (NoWaitBefore, WarmUpIsNotWaitedFor),
    "test_every_stream_is_waited_for": (
        WaitsForOneStreamBefore,
        WaitsForOneStreamBehind,
        MarksOneStream,
    ),
    "test_warm_up_calls_are_no_samples": (
        NoWarmUp,
        KeepsWarmUp,
        WarmUpAmongTheSamples,
        WarmsUpOnce,
    ),
    "test_the_calendar_does_not_count": (Calendar, CalendarNanoseconds),
    "test_waiting_counts": (ProcessTime,),
    "test_an_error_is_no_sample": (SwallowsErrors, TriesAgain, LeavesCollectorOff),
    "test_coroutines_are_awaited": (NeverAwaits, AwaitsWithoutDevice, AwaitsInProcessTime),
    "test_coroutines_share_an_event_loop": (LoopForEach,),
    "test_each_of_several_calls_warms_up": (WarmsUpTheFirst, NamesMixedUp),
    "test_calls_take_turns": (OneAfterTheOther, InBlocksOfFour),
    "test_a_call_that_computes_something_else_is_refused": (
        AbsoluteTolerance,
        NeverChecks,
        NotANumberPasses,
        BitsAlone,
    ),
    "test_ttft_ends_with_the_first_token": (FirstEvent, FirstText, FirstContent),
    "test_a_request_begins_when_it_is_sent": (SentByTheFirstEvent, EarlierWorkInTtft),
    "test_gaps_are_between_tokens": (
        FirstTokenIsAGap,
        GapsSinceSent,
        LastGapIsLost,
        GapsWithoutZeros,
    ),
    "test_tpot_leaves_the_prompt_out": (
        PrefillInTpot,
        TpotOverAllTokens,
        TpotOfChunks,
        TpotIsMedianGap,
    ),
    "test_a_single_token_has_no_tpot": (TpotOfOneToken,),
    "test_tokens_are_those_that_came": (CountsChunks, CountsWords),
    "test_e2e_ends_with_the_last_token": (EndsWithTheStream,),
    "test_a_broken_stream_is_no_timing": (CutIsAnEnd, NoTokenIsZero),
    "test_a_quantile_is_of_all_samples": (
        NotSorted,
        IndexCutOff,
        FiltersTheTail,
        FiltersEverything,
        SortsInPlace,
        NormalTail,
    ),
    "test_workers_are_pooled": (MeanOfQuantiles, WorstWorker, WeightedQuantiles),
    "test_latency_counts_from_when_a_request_was_due": (
        StartsBehindTheSemaphore,
        StartsWithTheFirstEvent,
        AwaitsEachAnswer,
    ),
    "test_requests_are_sent_when_they_are_due": (PausesBetween, AllAtOnce, NoLimit),
    "test_failures_are_told_and_have_no_times": (
        FailuresAreFast,
        FailuresHaveTimes,
        FailuresAreLeftOut,
        FailureEndsTheRun,
    ),
}
MUTANTS = [MeterMutant(fault, name) for name, faults in _KILLED_BY.items() for fault in faults]
