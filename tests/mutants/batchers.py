"""Small batchers that are right, of four designs: with a timer, with a worker, with a task for each
batch, and on a grid of time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infopt_suites.batching import BatcherSuite, BatchPolicy

AREA = "3 batchers"
ALL = frozenset(BatcherSuite.offers)


@dataclass(eq=False)
class Waiting:
    """An item, its caller's future, and when it came."""

    item: Any
    future: asyncio.Future[Any]
    time: float


class Outcomes:
    """What the designs share: a batch's call, and what its callers get of it."""

    capabilities: Any = ALL

    def __init__(self, function: Any, policy: BatchPolicy) -> None:
        self.function, self.policy = function, policy
        self.state = "stopped"

    def waiting(self, item: Any) -> Waiting:
        loop = asyncio.get_running_loop()
        return Waiting(item, loop.create_future(), loop.time())

    async def serve(self, batch: list[Waiting]) -> None:
        try:
            results = await self.function(self.collate(batch))
            self.check(results, batch)
        except BaseException as error:
            self.fail(batch, error)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        else:
            self.deliver(batch, results)

    def collate(self, batch: list[Waiting]) -> list[Any]:
        return [entry.item for entry in batch]

    def check(self, results: Any, batch: list[Waiting]) -> None:
        self.check_type(results)
        if len(results) != len(batch):
            raise ValueError(f"{len(results)} results for {len(batch)} items")

    def check_type(self, results: Any) -> None:
        if isinstance(results, str | bytes | Mapping) or not isinstance(results, Sequence):
            raise TypeError(f"no list of results: {type(results)}")

    def deliver(self, batch: list[Waiting], results: Sequence[Any]) -> None:
        for entry, result in zip(batch, results, strict=False):
            if isinstance(result, BaseException):
                self.tell(entry, result)
            else:
                self.give(entry, result)

    def give(self, entry: Waiting, result: Any) -> None:
        if not entry.future.done():
            entry.future.set_result(result)

    def tell(self, entry: Waiting, error: BaseException) -> None:
        if not entry.future.done():
            entry.future.set_exception(self.wrapped(error))

    def wrapped(self, error: BaseException) -> BaseException:
        if not isinstance(error, asyncio.CancelledError | StopIteration):
            return error
        told = RuntimeError(f"the batch function ended with {error!r}")
        told.__cause__ = error
        return told

    def fail(self, batch: list[Waiting], error: BaseException) -> None:
        for entry in batch:
            self.tell(entry, error)


class TimerBatcher(Outcomes):
    """A line and a timer; each batch has a task of its own."""

    def __init__(self, function: Any, policy: BatchPolicy) -> None:
        super().__init__(function, policy)
        self.line: list[Waiting] = []
        self.outside: list[Waiting] = []
        self.running: dict[asyncio.Task[None], list[Waiting]] = {}
        self.timer: asyncio.Handle | None = None

    # Callers

    async def submit(self, item: Any, deadline: float | None = None) -> Any:
        if deadline is None:
            return await self.outcome(item)
        async with asyncio.timeout(deadline):
            return await self.outcome(item)

    async def outcome(self, item: Any) -> Any:
        self.require_running()
        entry = self.waiting(item)
        self.admit(entry)
        self.dispatch()
        try:
            return await entry.future
        except asyncio.CancelledError:
            self.withdraw(entry)
            raise

    def require_running(self) -> None:
        if self.state != "running":
            raise RuntimeError(f"the batcher is {self.state}")

    def admit(self, entry: Waiting) -> None:
        if self.has_room() and not self.outside:
            self.line.append(entry)
        elif self.policy.reject_when_full:
            raise RuntimeError(f"{len(self.line)} items wait")
        else:
            self.outside.append(entry)

    def has_room(self) -> bool:
        bound = self.policy.max_queue_size
        return bound is None or len(self.line) < bound

    def withdraw(self, entry: Waiting) -> None:
        for line in (self.line, self.outside):
            if entry in line:
                line.remove(entry)
        self.let_in()
        self.dispatch()

    def let_in(self) -> None:
        while self.outside and self.has_room():
            self.line.append(self.outside.pop(0))

    # Batches

    def dispatch(self) -> None:
        while self.line and self.can_begin() and (self.is_full() or self.is_due()):
            self.send(self.take())
            self.let_in()
        self.set_timer()

    def can_begin(self) -> bool:
        return len(self.running) < self.policy.max_concurrency

    def is_full(self) -> bool:
        return len(self.line) >= min(self.policy.max_batch_size, self.policy.max_queue_size or 999)

    def is_due(self) -> bool:
        if self.state == "stopping":
            return True
        now = asyncio.get_running_loop().time()
        return self.policy.max_wait > 0 and now >= self.window_end() - 1e-9

    def window_end(self) -> float:
        return self.line[0].time + self.policy.max_wait

    def take(self) -> list[Waiting]:
        batch = self.line[: self.policy.max_batch_size]
        del self.line[: len(batch)]
        return batch

    def set_timer(self) -> None:
        self.cancel_timer()
        if self.line and self.can_begin():
            loop = asyncio.get_running_loop()
            if self.policy.max_wait:
                self.timer = loop.call_at(self.window_end(), self.dispatch)
            else:
                self.timer = loop.call_soon(self.send_all)

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def send_all(self) -> None:
        while self.line and self.can_begin():
            self.send(self.take())
            self.let_in()

    def send(self, batch: list[Waiting]) -> None:
        task = asyncio.get_running_loop().create_task(self.serve(batch))
        self.running[task] = batch
        task.add_done_callback(self.end)

    def end(self, task: asyncio.Task[None]) -> None:
        batch = self.running.pop(task)
        if task.cancelled():
            self.fail(batch, asyncio.CancelledError())
        self.dispatch()
        self.stop_if_done()

    # Life

    async def start(self) -> None:
        self.state = "running"
        self.stopped = asyncio.Event()

    async def stop(self, drain: bool = True) -> None:
        if self.state == "stopped":
            return
        self.state = "stopping"
        if drain:
            self.dispatch()
        else:
            self.abandon()
        self.stop_if_done()
        await self.stopped.wait()

    def abandon(self) -> None:
        self.abandon_line()
        self.abandon_calls()

    def abandon_line(self) -> None:
        self.fail(self.line + self.outside, RuntimeError("the batcher was stopped"))
        self.line, self.outside = [], []

    def abandon_calls(self) -> None:
        for task, batch in self.running.items():
            self.fail(batch, RuntimeError("the batcher was stopped"))
            task.cancel()

    def stop_if_done(self) -> None:
        if self.state == "stopping" and not self.running and not self.line:
            self.cancel_timer()
            self.state = "stopped"
            self.stopped.set()


class WorkerBatcher(Outcomes):
    """One task that fills a batch, serves it, and looks for the next."""

    capabilities = ALL - {"concurrency", "deadlines", "immediate", "rejects", "back-pressure"}

    async def start(self) -> None:
        self.line: list[Waiting] = []
        self.state = "running"
        self.arrived, self.changed = asyncio.Event(), asyncio.Event()
        self.worker = asyncio.create_task(self.work(), name="worker")

    async def submit(self, item: Any) -> Any:
        if self.state != "running":
            raise RuntimeError(f"the batcher is {self.state}")
        entry = self.waiting(item)
        self.line.append(entry)
        self.arrived.set()
        self.changed.set()
        try:
            return await entry.future
        finally:
            self.withdraw(entry)

    def withdraw(self, entry: Waiting) -> None:
        if entry in self.line:
            self.line.remove(entry)
            self.changed.set()

    async def work(self) -> None:
        while self.state == "running" or self.line:
            await self.arrived.wait()
            await self.fill()
            batch = self.take()
            await self.rest()
            if batch:
                await self.serve(batch)

    async def fill(self) -> None:
        while self.line and len(self.line) < self.policy.max_batch_size and self.left() > 0:
            self.changed.clear()
            try:
                async with asyncio.timeout(self.left()):
                    await self.changed.wait()
            except TimeoutError:
                return

    def left(self) -> float:
        if self.state != "running":
            return 0.0
        now = asyncio.get_running_loop().time()
        return self.line[0].time + self.policy.max_wait - now

    def take(self) -> list[Waiting]:
        batch = self.line[: self.policy.max_batch_size]
        del self.line[: len(batch)]
        return batch

    async def rest(self) -> None:
        if not self.line and self.state == "running":
            self.arrived.clear()

    async def stop(self, drain: bool = True) -> None:
        if self.state == "running":
            self.state = "stopping"
            self.arrived.set()
            self.changed.set()
            await self.worker
            self.state = "stopped"


class BatchTasks(Outcomes):
    """A task for each batch, begun by its first item; it closes by itself and then waits for a
    slot."""

    capabilities = frozenset({"age", "window", "full", "order", "concurrency", "item-errors"})

    async def start(self) -> None:
        self.open: list[Waiting] = []
        self.slots = asyncio.Semaphore(self.policy.max_concurrency)
        self.tasks: set[asyncio.Task[None]] = set()

    async def submit(self, item: Any) -> Any:
        entry = self.waiting(item)
        self.open.append(entry)
        if len(self.open) == 1:
            self.is_full = asyncio.Event()
            task = asyncio.create_task(self.batch(self.open, self.is_full))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        if len(self.open) == self.policy.max_batch_size:
            self.is_full.set()
            self.open = []
        return await entry.future

    async def batch(self, batch: list[Waiting], is_full: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self.policy.max_wait):
                await is_full.wait()
        except TimeoutError:
            self.open = []
        async with self.slots:
            await self.serve(batch)

    async def stop(self) -> None:
        pass


class GridBatcher(Outcomes):
    """Looks every ``max_wait`` seconds what has come, as the library `batched` does."""

    capabilities = frozenset({"order"})

    async def start(self) -> None:
        self.queue: asyncio.Queue[Waiting] = asyncio.Queue()
        self.worker = asyncio.create_task(self.work())

    async def submit(self, item: Any) -> Any:
        entry = self.waiting(item)
        self.queue.put_nowait(entry)
        return await entry.future

    async def work(self) -> None:
        while True:
            if self.queue.qsize() < self.policy.max_batch_size:
                await asyncio.sleep(self.policy.max_wait)
            count = min(self.policy.max_batch_size, self.queue.qsize())
            if count:
                await self.serve([self.queue.get_nowait() for _ in range(count)])

    async def stop(self) -> None:
        self.worker.cancel()


SOUND = [TimerBatcher, WorkerBatcher, BatchTasks, GridBatcher]
