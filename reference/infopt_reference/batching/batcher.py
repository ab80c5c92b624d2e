"""Batchers on asyncio: many callers, each with one item; one call for many items.

    policy = BatchPolicy(max_batch_size=32, max_wait=0.005)
    async with DynamicBatcher(batch_function, policy) as batcher:
        result = await batcher.submit(item)              in any number of tasks

A batch is sent as soon as a slot is free and the batch is *full* or its oldest item is *due*: after
``max_wait`` seconds in the `DynamicBatcher`, only by `Batcher.flush` or the end in the
`StaticBatcher`.

Contract
- Every call of `Batcher.submit` ends once: with its item's result, an exception, or the caller's
  own cancellation. Items are sent in the order of their calls, each once at most.
- The age of an item counts from its call. A later item never delays it: the window is no debounce.
- The batch function returns one result for each item, in their order. An Exception among them
  fails its item alone. What the function raises fails the items of that batch alone, and so does
  anything but one result each (`BatchResultError`).
- A caller that is cancelled, or whose deadline passes, takes its item along if that was not sent
  yet. Neighbours are served as if it had never been there.
- While as many items wait as may, further callers wait outside, or get a `QueueFullError`.
- A stop with ``drain`` serves all that were submitted before; without, they get a
  `BatcherStoppedError` and running calls of the batch function are cancelled. Then it may start
  again. The end of ``async with`` drains, unless by an exception.
- No task and no timer exist while nothing waits or runs. A step costs O(batch), whatever waits.

The batch function runs in a copy of the context in which the batcher was started, not in that of
the caller who happened to complete the batch.

Leaves out: threads (one event loop, and callers of that loop), priorities, batches bounded by
tokens instead of items (the `Scheduler`'s business). Sources: Crankshaw et al. 2017, "Clipper: A
Low-Latency Online Prediction Serving System", section 4.3 (batching, delayed batching); Olston et
al. 2017, "TensorFlow-Serving: Flexible, High-Performance ML Serving" (batching between requests).
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from enum import Enum
from typing import Any, Generic, Self, TypeVar

from .errors import BatcherRunningError, BatcherStoppedError, QueueFullError
from .outcomes import for_callers, require_one_each
from .pending import Entry, PendingItems
from .policy import BatchPolicy
from .statistics import BatcherStatistics
from .window import Window

Item = TypeVar("Item")
Result = TypeVar("Result")
Value = TypeVar("Value")
BatchFunction = Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]]


class _State(Enum):
    STOPPED = "stopped"
    RUNNING = "running"
    STOPPING = "stopping"


class Batcher(Generic[Item, Result]):
    """What the batchers share: the line, the slots, the outcomes, start and stop."""

    def __init__(
        self, batch_function: BatchFunction[Item, Result], policy: BatchPolicy, max_wait: float
    ) -> None:
        self.policy = policy
        self.statistics = BatcherStatistics()
        self._batch_function = batch_function
        self._largest_batch = policy.largest_batch
        self._max_queue_size = policy.max_queue_size or sys.maxsize
        self._line = PendingItems()
        self._outside = PendingItems()  # callers that wait for room in the line
        self._running: dict[asyncio.Task[None], list[Entry]] = {}
        self._free_slots = policy.max_concurrency
        self._window = Window(max_wait, self._dispatch)
        self._state = _State.STOPPED
        self._stopped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        self._context: contextvars.Context

    @property
    def num_waiting(self) -> int:
        """Items that were submitted and not sent, those that wait for room among them."""
        return self._line.num_waiting + self._outside.num_waiting

    @property
    def num_running(self) -> int:
        """Calls of the batch function that have not returned."""
        return len(self._running)

    async def submit(self, item: Item, deadline: float | None = None) -> Result:
        """The item's result, once a batch with it was served.

        ``deadline``: seconds from now that the caller waits at most.

        Raises:
            BatcherStoppedError: the batcher does not run, or stopped before it was served.
            QueueFullError: as many items wait as may, and the policy says ``reject_when_full``.
            TimeoutError: the deadline passed.
            BatchResultError: the batch function did not return one result for each item.
            Exception: what the batch function raised, or returned for this item.
        """
        if deadline is not None:
            return await self._within(deadline, self.submit(item))
        entry = self._enqueue(item)
        try:
            result: Result = await entry.future
        except asyncio.CancelledError:
            self._withdraw(entry)
            raise
        return result

    def flush(self) -> None:
        """Sends what waits now without waiting for more, as soon as slots are free."""
        if self._state is _State.RUNNING:
            self._window.end(self._loop.time())
            self._dispatch()

    async def start(self) -> None:
        """Begins to serve, in the event loop that runs.

        Raises:
            BatcherRunningError: it serves already, or its stop has not ended.
        """
        if self._state is not _State.STOPPED:
            raise BatcherRunningError(f"the batcher is {self._state.value}; await its stop() first")
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._window.open(self._loop)
        self._stopped = asyncio.Event()
        self._state = _State.RUNNING

    async def stop(self, drain: bool = True) -> None:
        """Ends after all that was submitted is served, or without ``drain`` at once.

        At once: all callers get a `BatcherStoppedError`, then the running calls of the batch
        function are cancelled and awaited. It may follow a stop that drains, and cuts it short.
        A batcher that does not run is left as it is.

        Raises:
            RuntimeError: the batch function calls it, and would wait for itself.
        """
        if self._state is _State.STOPPED:
            return
        if asyncio.current_task() in self._running:
            raise RuntimeError("the batch function awaits the batcher's stop(); call it elsewhere")
        self._state = _State.STOPPING
        if drain:
            self._dispatch()
        else:
            self._abandon()
        self._stop_if_done()
        await self._stopped.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *error: object) -> None:
        if exc_type is GeneratorExit:  # there is no loop any more in which to wait
            return
        try:
            await self.stop(drain=exc_type is None)
        except asyncio.CancelledError:  # whoever is cancelled waits no longer
            await self.stop(drain=False)
            raise

    def _enqueue(self, item: Item) -> Entry:
        """Puts an item in the line, and sends the batch that it completes."""
        if self._state is not _State.RUNNING:
            self._require_running()
        line, loop = self._line, self._loop
        if len(line) - line.num_withdrawn >= self._max_queue_size or self._outside:
            line = self._line_when_full()
        entry = Entry(loop.create_future(), item, loop.time(), line)
        line.append(entry)
        self.statistics.num_submitted += 1
        if self._free_slots:
            if len(line) - line.num_withdrawn >= self._largest_batch:
                self._dispatch()
            elif self._window.timer is None:
                self._window.wait(entry.time)
        return entry

    def _require_running(self) -> None:
        if self._state is not _State.RUNNING:
            raise BatcherStoppedError(f"the batcher is {self._state.value}; await start() first")

    def _line_when_full(self) -> PendingItems:
        if not self.policy.reject_when_full:
            return self._outside
        self.statistics.num_rejected += 1
        raise QueueFullError(
            f"{self._line.num_waiting} items wait, max_queue_size is {self._max_queue_size}; "
            f"come back later, or let callers wait: reject_when_full=False"
        )

    def _withdraw(self, entry: Entry) -> None:
        """Forgets an entry whose caller was cancelled."""
        if entry.future.cancelled():  # otherwise the outcome came in the same turn of the loop
            self.statistics.num_withdrawn += 1
        if entry.line is not None:
            entry.line.withdraw(entry)
            if not self._line.num_waiting:
                self._window.cancel()

    def _dispatch(self) -> None:
        """Sends batches while one is full or due and a slot is free."""
        while self._free_slots:
            batch = self._take_batch()
            if not batch:
                break
            if len(batch) < self._largest_batch and not self._is_due(batch[0]):
                self._line.put_back(batch)
                self._window.wait(batch[0].time)
                return
            self._send(batch)
        self._window.cancel()

    def _take_batch(self) -> list[Entry]:
        """The next items, of the line and of those outside, who come in when it has room."""
        batch = self._line.take(self._largest_batch)
        if len(batch) == self._largest_batch or not self._outside:
            return batch
        self._line.put_back(batch)
        for entry in self._outside.take(self._max_queue_size - len(batch)):
            entry.line = self._line
            self._line.append(entry)
        return self._line.take(self._largest_batch)

    def _is_due(self, oldest: Entry) -> bool:
        return self._state is _State.STOPPING or self._window.is_over(oldest.time)

    def _send(self, batch: list[Entry]) -> None:
        now = self._loop.time()
        waited = now * len(batch) - sum([entry.time for entry in batch])
        self.statistics.record_batch(len(batch), waited, now - batch[0].time)
        self._free_slots -= 1
        task = self._loop.create_task(self._serve(batch), context=self._context.copy())
        self._running[task] = batch
        # Not in the task itself: one that is cancelled before its first step never runs. And the
        # callers of this batch wake up before: what they submit next joins the next batch.
        task.add_done_callback(self._end)

    async def _serve(self, batch: list[Entry]) -> None:
        try:
            results = await self._batch_function([entry.item for entry in batch])
            self._deliver(batch, results)
        except GeneratorExit:  # the loop was closed under it
            raise
        except (KeyboardInterrupt, SystemExit) as error:
            self._fail(batch, error)
            raise
        except BaseException as error:
            self._fail(batch, error)

    def _deliver(self, batch: list[Entry], results: Sequence[Result | Exception]) -> None:
        require_one_each(results, len(batch))
        for entry, result in zip(batch, results, strict=True):
            future = entry.future
            if future.done():
                continue
            if isinstance(result, Exception):
                self.statistics.num_failed += 1
                future.set_exception(for_callers(result))
            else:
                self.statistics.num_completed += 1
                future.set_result(result)

    def _fail(self, batch: list[Entry], error: BaseException) -> None:
        error = for_callers(error)
        for entry in batch:
            if not entry.future.done():
                self.statistics.num_failed += 1
                entry.future.set_exception(error)

    def _end(self, task: asyncio.Task[None]) -> None:
        """Gives back the slot of a batch, and sends the next one."""
        batch = self._running.pop(task)
        if task.cancelled():
            self._fail(batch, asyncio.CancelledError())
        self._free_slots += 1
        self._dispatch()
        self._stop_if_done()

    def _abandon(self) -> None:
        """Gives all callers their outcome, and cancels what runs."""
        waiting = [*self._line.take(len(self._line)), *self._outside.take(len(self._outside))]
        running = [entry for batch in self._running.values() for entry in batch]
        for entry in waiting + running:
            if not entry.future.done():
                self.statistics.num_stopped += 1
                entry.future.set_exception(
                    BatcherStoppedError("the batcher was stopped before this item was served")
                )
        for task in self._running:
            task.cancel()

    def _stop_if_done(self) -> None:
        if self._state is _State.STOPPING and not self._running:
            self._window.cancel()
            self._state = _State.STOPPED
            self._stopped.set()

    async def _within(self, deadline: float, call: Coroutine[Any, Any, Value]) -> Value:
        """What a call of ours returns, unless the time ends before."""
        timeout = asyncio.timeout(max(0.0, deadline))
        try:
            async with timeout:
                return await call
        except TimeoutError:
            if not timeout.expired():  # the batch function's own
                raise
            self.statistics.num_expired += 1
            raise TimeoutError(
                f"not served within its deadline of {deadline} s; allow more, or serve faster"
            ) from None


class DynamicBatcher(Batcher[Item, Result]):
    """Sends a batch that is full, or whose oldest item has waited ``policy.max_wait`` seconds."""

    def __init__(self, batch_function: BatchFunction[Item, Result], policy: BatchPolicy) -> None:
        super().__init__(batch_function, policy, policy.max_wait)


class StaticBatcher(Batcher[Item, Result]):
    """Sends full batches only; ``policy.max_wait`` is ignored.

    An incomplete batch waits, however long, until `flush` or the stop: for work whose end is known,
    such as a data set. Callers that come one at a time and wait for their results wait for ever.
    """

    def __init__(self, batch_function: BatchFunction[Item, Result], policy: BatchPolicy) -> None:
        super().__init__(batch_function, policy, math.inf)
