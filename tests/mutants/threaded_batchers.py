"""Small batchers that wait in threads and call a synchronous function: right ones of two designs,
and the same with faults. They are tried on the real clock."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from infopt_suites.batching import BatchPolicy

Entry = tuple[Any, Future[Any]]


class QueueThread:
    """One thread fills a batch from a queue, and calls the batch function in the event loop."""

    capabilities: Any = frozenset({"order", "stop"})
    virtual = False
    examples = 3

    def __init__(self, function: Any, policy: BatchPolicy) -> None:
        self.function, self.policy = function, policy
        self.queue: queue.Queue[Entry | None] = queue.Queue()
        self.is_open = False

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.is_open = True
        self.thread.start()

    async def submit(self, item: Any) -> Any:
        if not self.is_open:
            raise RuntimeError("the batcher is stopped")
        future: Future[Any] = Future()
        self.queue.put((item, future))
        return await asyncio.wrap_future(future)

    async def stop(self) -> None:
        if self.is_open:
            self.is_open = False
            self.queue.put(None)
            await asyncio.to_thread(self.thread.join)

    def work(self) -> None:
        entry = self.queue.get()
        while not self.is_the_end(entry):
            batch, entry = self.fill(entry)
            self.serve([each for each in batch if self.is_awaited(each)])
            entry = self.queue.get() if entry is None and self.is_open else entry
        self.drain()

    def is_the_end(self, entry: Entry | None) -> bool:
        return entry is None

    def fill(self, first: Entry | None) -> tuple[list[Entry], Entry | None]:
        """A batch, and None: either nothing more, or the end."""
        batch = [] if first is None else [first]
        end = time.monotonic() + self.policy.max_wait
        while len(batch) < self.policy.max_batch_size:
            try:
                entry = self.queue.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            if entry is None:
                self.queue.put(None)
                break
            batch.append(entry)
        return batch, None

    def is_awaited(self, entry: Entry) -> bool:
        return entry[1].set_running_or_notify_cancel()

    def serve(self, batch: list[Entry]) -> None:
        if not batch:
            return
        try:
            results = self.call(batch)
            self.check(results, len(batch))
        except BaseException as error:
            self.fail(batch, error)
        else:
            self.deliver(batch, results)

    def call(self, batch: list[Entry]) -> Any:
        items = [item for item, _ in batch]
        return asyncio.run_coroutine_threadsafe(self.function(items), self.loop).result()

    def check(self, results: Any, count: int) -> None:
        if not isinstance(results, list) or len(results) != count:
            raise ValueError(f"no list of {count} results")

    def deliver(self, batch: list[Entry], results: Any) -> None:
        for (_, future), result in zip(batch, results, strict=False):
            future.set_result(result)

    def fail(self, batch: list[Entry], error: BaseException) -> None:
        told = RuntimeError(f"the batch function ended with {error!r}")
        told.__cause__ = error
        for _, future in batch:
            future.set_exception(told)

    def drain(self) -> None:
        """Whoever is still there gets an error."""
        while not self.queue.empty():
            entry = self.queue.get()
            if entry is not None and self.is_awaited(entry):
                entry[1].set_exception(RuntimeError("the batcher was stopped"))


class BlockingCallers(QueueThread):
    """Right in another way: `submit` is a synchronous call, in a thread of each caller."""

    capabilities = frozenset({"order"})

    async def submit(self, item: Any) -> Any:
        return await asyncio.to_thread(self.ask, item)

    def ask(self, item: Any) -> Any:
        future: Future[Any] = Future()
        self.queue.put((item, future))
        return future.result()

    async def stop(self) -> None:
        self.is_open = False
        self.queue.put(None)


class TextsInAThread(QueueThread):
    """An embedding batcher: each text is an item."""

    capabilities = frozenset({"shared", "stop"})

    async def embed(self, texts: list[str]) -> Any:
        return list(await asyncio.gather(*map(self.submit, texts)))


class AnErrorEndsTheThread(QueueThread):
    """B08: nobody is served any more."""

    def serve(self, batch: list[Entry]) -> None:
        if batch:
            self.deliver(batch, self.call(batch))


class ExceptionsAlone(QueueThread):
    """Not listed: what is no Exception ends the thread."""

    def serve(self, batch: list[Entry]) -> None:
        if batch:
            try:
                results = self.call(batch)
                self.check(results, len(batch))
            except Exception as error:
                self.fail(batch, error)
            else:
                self.deliver(batch, results)


class CountUnchecked(QueueThread):
    """B15: who gets no result waits for ever."""

    def check(self, results: Any, count: int) -> None:
        len(results)


class Reversed(QueueThread):
    """B14: results of a batch that was sorted for the call."""

    def call(self, batch: list[Entry]) -> Any:
        return super().call(batch[::-1])


class NoneIsTheEnd(QueueThread):
    """Not listed: None tells the thread to end."""

    def is_the_end(self, entry: Entry | None) -> bool:
        return entry is None or entry[0] is None


class ResultForTheCancelled(QueueThread):
    """B10: InvalidStateError ends the thread."""

    def is_awaited(self, entry: Entry) -> bool:
        return True


class StopForgetsTheQueue(QueueThread):
    """B12: only what runs is ended."""

    def drain(self) -> None:
        pass

    def work(self) -> None:
        entry = self.queue.get()
        while entry is not None and self.is_open:
            batch, _ = self.fill(entry)
            self.serve([each for each in batch if self.is_awaited(each)])
            entry = self.queue.get()


class OpenAfterTheStop(QueueThread):
    """B12: items lie in a queue that nobody reads."""

    async def submit(self, item: Any) -> Any:
        future: Future[Any] = Future()
        self.queue.put((item, future))
        return await asyncio.wrap_future(future)


@dataclass(frozen=True)
class ThreadedMutant:
    fault: type[QueueThread]
    broken: str


MUTANTS = [
    ThreadedMutant(AnErrorEndsTheThread, "test_a_failing_call_fails_its_own_callers_alone"),
    ThreadedMutant(ExceptionsAlone, "test_an_end_of_any_kind_leaves_nobody_waiting"),
    ThreadedMutant(CountUnchecked, "test_a_wrong_number_of_results_fails_the_call"),
    ThreadedMutant(CountUnchecked, "test_what_is_no_list_of_results_fails_the_call"),
    ThreadedMutant(Reversed, "test_every_caller_gets_its_own_result"),
    ThreadedMutant(NoneIsTheEnd, "test_any_object_may_be_an_item"),
    ThreadedMutant(ResultForTheCancelled, "test_many_rounds_leave_nothing_behind"),
    ThreadedMutant(StopForgetsTheQueue, "test_after_a_stop_nobody_waits"),
    ThreadedMutant(OpenAfterTheStop, "test_a_stopped_batcher_turns_callers_away"),
]
SOUND = [QueueThread, BlockingCallers]
