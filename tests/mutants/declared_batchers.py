"""Small batchers that differ from the usual ones as the suite's class attributes declare, right and
with faults, and batchers that ask Python's clocks."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from time import perf_counter
from typing import Any

from batchers import ALL, BatchTasks, Outcomes, TimerBatcher, Waiting, WorkerBatcher
from infopt_suites.batching import BatchPolicy

# Right


class AtOnce(TimerBatcher):
    """Sends what is there as soon as a call can begin: the first item alone."""

    capabilities = ALL - {"window"}
    sends_at_once = True

    def is_due(self) -> bool:
        return True


class AtTheEndOfTheTurn(TimerBatcher):
    """Sends what has come in a turn of the loop; while a call runs, items gather."""

    capabilities = ALL - {"window"}

    def set_timer(self) -> None:
        self.cancel_timer()
        if self.line and self.can_begin():
            self.timer = asyncio.get_running_loop().call_soon(self.send_all)


class AsksTheCalendar(WorkerBatcher):
    """Its windows are those of `time.time`."""

    def waiting(self, item: Any) -> Waiting:
        return Waiting(item, asyncio.get_running_loop().create_future(), time.time())

    def left(self) -> float:
        if self.state != "running":
            return 0.0
        return self.line[0].time + self.policy.max_wait - time.time()


class AsksThePerformanceCounter(TimerBatcher):
    """Its windows are those of `time.perf_counter`, imported by name; one look at each end."""

    def waiting(self, item: Any) -> Waiting:
        return Waiting(item, asyncio.get_running_loop().create_future(), perf_counter())

    def is_due(self) -> bool:
        if self.state == "stopping":
            return True
        return self.policy.max_wait > 0 and perf_counter() >= self.window_end()

    def set_timer(self) -> None:
        self.cancel_timer()
        if self.line and self.can_begin():
            loop = asyncio.get_running_loop()
            if self.policy.max_wait:
                left = self.window_end() - perf_counter()
                self.timer = loop.call_later(left, self.dispatch)
            else:
                self.timer = loop.call_soon(self.send_all)


class RetriesOneByOne(TimerBatcher):
    """What fails with others is tried alone."""

    retries_one_by_one = True

    async def serve(self, batch: list[Waiting]) -> None:
        try:
            results = await self.function(self.collate(batch))
            self.check(results, batch)
        except Exception:
            await self.serve_each(batch)
        except BaseException as error:
            self.fail(batch, error)
        else:
            self.deliver(batch, results)

    async def serve_each(self, batch: list[Waiting]) -> None:
        for entry in batch:
            if not entry.future.done():
                await Outcomes.serve(self, [entry])


class WorkerThatRetries(WorkerBatcher):
    """The same, and an item that was alone is not tried again."""

    retries_one_by_one = True

    async def serve(self, batch: list[Waiting]) -> None:
        try:
            results = await self.function(self.collate(batch))
            self.check(results, batch)
        except BaseException as error:
            if len(batch) == 1 or not isinstance(error, Exception):
                self.fail(batch, error)
                return
            for entry in batch:
                await self.serve([entry])
        else:
            self.deliver(batch, results)


class Breaker(TimerBatcher):
    """Turns callers away for a while after each call that failed."""

    recovers_within = 30.0

    def __init__(self, function: Any, policy: BatchPolicy) -> None:
        super().__init__(function, policy)
        self.open_until = 0.0

    def fail(self, batch: list[Waiting], error: BaseException) -> None:
        if self.state == "running":
            self.open_until = asyncio.get_running_loop().time() + self.seconds()
        super().fail(batch, error)

    def seconds(self) -> float:
        return self.recovers_within

    def require_running(self) -> None:
        if asyncio.get_running_loop().time() < self.open_until:
            raise RuntimeError("too many calls have failed")
        super().require_running()


class BreakerOfTheSecondFailure(WorkerBatcher):
    """Turns callers away after two failures, and drops those who wait."""

    recovers_within = 60.0

    async def start(self) -> None:
        self.failures, self.last = 0, 0.0
        await super().start()

    def fail(self, batch: list[Waiting], error: BaseException) -> None:
        self.failures, self.last = self.failures + 1, time.monotonic()
        super().fail(batch, error)
        if self.failures >= 2:
            super().fail(self.line, RuntimeError("too many calls have failed"))
            self.line = []

    async def submit(self, item: Any) -> Any:
        if self.failures >= 2 and time.monotonic() - self.last < self.recovers_within:
            raise RuntimeError("too many calls have failed")
        return await super().submit(item)


class NoZeroDeadline(TimerBatcher):
    """A deadline has to lie ahead."""

    refuses_zero_deadline = True

    async def submit(self, item: Any, deadline: float | None = None) -> Any:
        if deadline is not None and deadline <= 0:
            raise ValueError(f"deadline is {deadline}")
        return await super().submit(item, deadline)


class Loader(Outcomes):
    """As data loaders do: all keys of a turn, in as many calls as they need, at once."""

    capabilities = frozenset({"full", "no-window", "order", "item-errors"})
    unbounded_calls = True

    async def start(self) -> None:
        self.line: list[Waiting] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def submit(self, item: Any) -> asyncio.Future[Any]:
        entry = self.waiting(item)
        self.line.append(entry)
        if len(self.line) == 1:
            asyncio.get_running_loop().call_soon(self.load)
        return entry.future

    def load(self) -> None:
        line, self.line, size = self.line, [], self.size()
        for start in range(0, len(line), size):
            task = asyncio.create_task(self.serve(line[start : start + size]))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def size(self) -> int:
        return self.policy.max_batch_size

    async def stop(self) -> None:
        """It has no end."""


class TasksWithoutSlots(BatchTasks):
    """A task for each batch, with a window and without a bound on how many run."""

    capabilities = BatchTasks.capabilities - {"concurrency"}
    unbounded_calls = True

    async def start(self) -> None:
        await super().start()
        self.slots = asyncio.Semaphore(999)


DECLARED = [
    AtOnce,
    AtTheEndOfTheTurn,
    AsksTheCalendar,
    AsksThePerformanceCounter,
    RetriesOneByOne,
    WorkerThatRetries,
    Breaker,
    BreakerOfTheSecondFailure,
    NoZeroDeadline,
    Loader,
    TasksWithoutSlots,
]

# With faults


class OneAfterTheOther(AtOnce):
    """Not listed: what is sent at once is one item, always."""

    def take(self) -> list[Waiting]:
        return [self.line.pop(0)]


class NothingGathers(AtTheEndOfTheTurn):
    """Not listed: what came while a call ran is sent with the next caller."""

    def end(self, task: asyncio.Task[None]) -> None:
        del self.running[task]
        self.stop_if_done()


class SecondsForMilliseconds(AsksTheCalendar):
    """Not listed: the window is a thousand times as long."""

    def left(self) -> float:
        left = super().left()
        return left and 1000 * left


class WindowOfTwoClocks(AsksThePerformanceCounter):
    """Not listed: items are stamped by one clock, and looked at by another."""

    def is_due(self) -> bool:
        return bool(self.state == "stopping" or time.time() >= self.line[0].time + 1e12)


class FirstFailureEndsTheRetries(RetriesOneByOne):
    """Not listed: those behind the item at fault get its error."""

    async def serve_each(self, batch: list[Waiting]) -> None:
        for entry in reversed(batch):
            await super().serve_each([entry])
            if not entry.future.cancelled() and entry.future.exception() is not None:
                self.fail(batch, entry.future.exception() or RuntimeError())


class RetriesTheBatch(RetriesOneByOne):
    """Not listed: what failed is sent again as a whole."""

    async def serve_each(self, batch: list[Waiting]) -> None:
        await Outcomes.serve(self, batch)


class RetriesAllButOne(RetriesOneByOne):
    """Not listed: the last item is forgotten."""

    async def serve_each(self, batch: list[Waiting]) -> None:
        await super().serve_each(batch[:-1] or batch)


class RetriesWhatWorked(RetriesOneByOne):
    """Not listed: one wrong result, and all items are computed again for ever."""

    async def serve_each(self, batch: list[Waiting]) -> None:
        await super().serve_each(batch)
        await super().serve_each([self.waiting(entry.item) for entry in batch])


class RetriesEndWithWhoLeaves(RetriesOneByOne):
    """Not listed: set_result on a cancelled future, in the midst of the tries."""

    def give(self, entry: Waiting, result: Any) -> None:
        entry.future.set_result(result)

    async def serve_each(self, batch: list[Waiting]) -> None:
        with suppress(asyncio.InvalidStateError):
            for entry in batch:
                if not entry.future.done():
                    self.deliver([entry], await self.function([entry.item]))


class RetriesNobodyAfterWhoLeft(WorkerThatRetries):
    """Not listed: tries end at the first caller who is gone."""

    async def serve(self, batch: list[Waiting]) -> None:
        if batch[0].future.cancelled():
            raise asyncio.InvalidStateError
        await super().serve(batch)
        if batch[0].future.cancelled():
            self.line = []
            raise asyncio.InvalidStateError


class NeverRecovers(Breaker):
    """Not listed: open for good."""

    def seconds(self) -> float:
        return 1e9


class WaitsUntilItRecovers(Breaker):
    """Not listed: callers are kept instead of being turned away, and forgotten."""

    async def outcome(self, item: Any) -> Any:
        if asyncio.get_running_loop().time() < self.open_until:
            await asyncio.Event().wait()
        return await super().outcome(item)


class ZeroIsNoDeadline(NoZeroDeadline):
    """Not listed: ``if deadline``."""

    async def submit(self, item: Any, deadline: float | None = None) -> Any:
        return await TimerBatcher.submit(self, item, deadline or None)


class LoadsOneByOne(Loader):
    """Not listed: a call for each key."""

    def size(self) -> int:
        return 1


class LoadsTheFirstCallAlone(Loader):
    """Not listed: what goes beyond a batch is dropped."""

    def load(self) -> None:
        del self.line[self.policy.max_batch_size :]
        super().load()


class LoadsTooMany(Loader):
    """Not listed: all keys of a turn in one call."""

    def size(self) -> int:
        return 999
