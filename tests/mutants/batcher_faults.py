"""The small batchers with faults that real ones have shipped, and with others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import declared_batchers as declared
from batchers import ALL, BatchTasks, Outcomes, TimerBatcher, Waiting, WorkerBatcher
from infopt_suites.batching import BatchPolicy

# Windows


class EventClearedWhileItemsRemain(WorkerBatcher):
    """B01: the rest waits for somebody to come (ray-project/ray#42705)."""

    async def rest(self) -> None:
        if self.state == "running":
            self.arrived.clear()


class OnlyFullBatches(TimerBatcher):
    """B02: no flush when the window ends (apache/metron#442, SeldonIO/seldon-core#3377)."""

    def is_due(self) -> bool:
        return self.state == "stopping"

    def set_timer(self) -> None:
        pass


class Debounce(TimerBatcher):
    """B03: each arrival begins the window anew (JasperFx/jasperfx#533)."""

    def window_end(self) -> float:
        return self.line[-1].time + self.policy.max_wait


class WholeWindowAgain(WorkerBatcher):
    """B04: the rest of the time is computed and the whole window waited for
    (hussein-awala/async-batcher#41, stanfordnlp/dspy#10038)."""

    async def fill(self) -> None:
        while self.line and len(self.line) < self.policy.max_batch_size and self.left() > 0:
            self.changed.clear()
            try:
                async with asyncio.timeout(self.policy.max_wait):
                    await self.changed.wait()
            except TimeoutError:
                return


class NeverWaits(TimerBatcher):
    """B07: whatever is there is sent (triton-inference-server/server#3934)."""

    def is_due(self) -> bool:
        return True


class LimitBelowABatch(TimerBatcher):
    """B07: what may be in flight is less than a batch (ray-project/ray#43288)."""

    def take(self) -> list[Waiting]:
        batch = self.line[: max(1, self.policy.max_batch_size - 1)]
        del self.line[: len(batch)]
        return batch


class EventReplaced(WorkerBatcher):
    """B34: who comes between the snapshot and the new event sets the old one
    (NVIDIA-NeMo/Guardrails#1921)."""

    async def rest(self) -> None:
        if not self.line and self.state == "running":
            await asyncio.sleep(0)
            self.arrived = asyncio.Event()


class FullNotSent(TimerBatcher):
    """Not listed: only the timer sends."""

    def is_full(self) -> bool:
        return False


class SizeLookedAtBefore(TimerBatcher):
    """Not listed: the item that fills the batch is not counted yet."""

    def is_full(self) -> bool:
        return len(self.line) > self.policy.max_batch_size


class OneTooMany(TimerBatcher):
    """Not listed: ``<=`` where ``<`` is meant."""

    def take(self) -> list[Waiting]:
        batch = self.line[: self.policy.max_batch_size + 1]
        del self.line[: len(batch)]
        return batch


class SentTwice(TimerBatcher):
    """Not listed: the last item of a full batch stays in the line."""

    def take(self) -> list[Waiting]:
        batch = self.line[: self.policy.max_batch_size]
        del self.line[: max(1, len(batch) - 1)]
        return batch


class LastInFirstOut(TimerBatcher):
    """Not listed: the line is a stack."""

    def take(self) -> list[Waiting]:
        batch = self.line[-self.policy.max_batch_size :]
        del self.line[-self.policy.max_batch_size :]
        return batch


class WindowFromTheSlot(TimerBatcher):
    """Not listed: what waited for a slot waits for a whole window after that."""

    freed = 0.0

    def end(self, task: asyncio.Task[None]) -> None:
        self.freed = asyncio.get_running_loop().time()
        super().end(task)

    def window_end(self) -> float:
        return max(self.line[0].time, self.freed) + self.policy.max_wait


class TimerOfASentBatch(TimerBatcher):
    """Not listed: it is never cancelled, and sends what has come since."""

    def set_timer(self) -> None:
        if self.line and self.can_begin() and self.policy.max_wait:
            loop = asyncio.get_running_loop()
            loop.call_at(self.window_end(), self.send_all)

    capabilities = ALL - {"no-window"}


class ZeroIsNoWindow(TimerBatcher):
    """Not listed: ``max_wait or default``."""

    def __init__(self, function: Any, policy: BatchPolicy) -> None:
        super().__init__(function, policy)
        self.default = policy.max_wait or 0.01

    def window_end(self) -> float:
        return self.line[0].time + self.default

    def set_timer(self) -> None:
        self.cancel_timer()
        if self.line and self.can_begin():
            loop = asyncio.get_running_loop()
            self.timer = loop.call_at(self.window_end(), self.send_all)


class ClosedBeforeItCanBegin(BatchTasks):
    """Not listed: small batches queue for a slot and take nobody in any more."""

    capabilities = BatchTasks.capabilities | {"open"}


class OneSlot(TimerBatcher):
    """Not listed: max_concurrency is not looked at."""

    def can_begin(self) -> bool:
        return not self.running


class OneSlotTooMany(TimerBatcher):
    """Not listed: ``<=`` where ``<`` is meant."""

    def can_begin(self) -> bool:
        return len(self.running) <= self.policy.max_concurrency


class SlotOfAFailedCall(TimerBatcher):
    """Not listed: it is given back where the call succeeds."""

    async def serve(self, batch: list[Waiting]) -> None:
        await super().serve(batch)
        if any(entry.future.exception() for entry in batch if not entry.future.cancelled()):
            self.running[asyncio.create_task(asyncio.Event().wait())] = []  # type: ignore[index, arg-type]


# Results


class OrderOfCompletion(TimerBatcher):
    """B14: results of calls that end early go to those who came first
    (AstrBotDevs/AstrBot#9241)."""

    def deliver(self, batch: list[Waiting], results: Sequence[Any]) -> None:
        first = next(iter(self.running.values()))
        super().deliver([*first, *batch][: len(results)], results)
        super().fail(batch, RuntimeError("answered to others"))


class SortedAndNotBack(TimerBatcher):
    """B14: sorted for the call, as by length, and handed out unsorted."""

    def collate(self, batch: list[Waiting]) -> list[Any]:
        return [entry.item for entry in reversed(batch)]


class ZipWithoutStrict(TimerBatcher):
    """B15: who gets no result waits for ever (ersilia-os/ersilia#1722)."""

    def check(self, results: Any, batch: list[Waiting]) -> None:
        self.check_type(results)


class LengthIsAll(TimerBatcher):
    """B15: a mapping or a text of the right length is taken for results
    (Lightning-AI/LitServe#506, #294)."""

    def check_type(self, results: Any) -> None:
        pass


class TakenByPlace(TimerBatcher):
    """Not listed: callers who gave up are left out before results are handed out, by place."""

    def deliver(self, batch: list[Waiting], results: Sequence[Any]) -> None:
        super().deliver([entry for entry in batch if not entry.future.done()], results)


class FuturesUnderItems(TimerBatcher):
    """Not listed: a dict of items to futures."""

    def deliver(self, batch: list[Waiting], results: Sequence[Any]) -> None:
        entries = {entry.item: entry for entry in batch}
        for entry, result in zip(batch, results, strict=True):
            self.give(entries[entry.item], result)


class FalsyIsNoResult(TimerBatcher):
    """Not listed: ``if result``."""

    def give(self, entry: Waiting, result: Any) -> None:
        if result:
            super().give(entry, result)


class ErrorAsResult(TimerBatcher):
    """Not listed: exceptions among the results are handed out."""

    def deliver(self, batch: list[Waiting], results: Sequence[Any]) -> None:
        for entry, result in zip(batch, results, strict=True):
            self.give(entry, result)


class ErrorOfOneForAll(TimerBatcher):
    """Not listed: the first exception among the results is raised."""

    def deliver(self, batch: list[Waiting], results: Sequence[Any]) -> None:
        errors = [result for result in results if isinstance(result, BaseException)]
        if errors:
            self.fail(batch, errors[0])
        super().deliver(batch, results)


class RefusedByTheFuture(TimerBatcher):
    """Not listed: set_exception(StopIteration) is a TypeError."""

    def wrapped(self, error: BaseException) -> BaseException:
        return error


# Failures


class NobodyIsTold(TimerBatcher):
    """B08: no handler around the call (michaelfeil/infinity#614)."""

    def fail(self, batch: list[Waiting], error: BaseException) -> None:
        pass


class WorkerDies(WorkerBatcher):
    """B08: an exception ends the only worker (michaelfeil/infinity#242, #668)."""

    async def serve(self, batch: list[Waiting]) -> None:
        results = await self.function(self.collate(batch))
        self.check(results, batch)
        self.deliver(batch, results)


class MeasuredOutside(WorkerBatcher):
    """B09: the size of an item is computed outside of what is guarded (ray-project/ray#66140)."""

    async def serve(self, batch: list[Waiting]) -> None:
        sum(len(entry.item) for entry in batch if hasattr(entry.item, "__len__"))
        await super().serve(batch)


class CancelledIsNoException(WorkerBatcher):
    """Not listed: ``except Exception`` around the call."""

    async def serve(self, batch: list[Waiting]) -> None:
        try:
            results = await self.function(self.collate(batch))
            self.check(results, batch)
        except Exception as error:
            self.fail(batch, error)
        else:
            self.deliver(batch, results)


class NoneIsTheEnd(WorkerBatcher):
    """Not listed: None tells the worker to stop."""

    def take(self) -> list[Waiting]:
        batch = super().take()
        if any(entry.item is None for entry in batch):
            self.state, self.line = "stopping", []
        return batch


class FalsyIsNoItem(WorkerBatcher):
    """Not listed: ``if item``."""

    def take(self) -> list[Waiting]:
        return [entry for entry in super().take() if entry.item != 0 and entry.item != ""]


class ErrorForAllWhoWait(TimerBatcher):
    """Not listed: a failed call fails the line."""

    def fail(self, batch: list[Waiting], error: BaseException) -> None:
        super().fail(batch + self.line, error)
        self.line = []


class ErrorEndsIt(TimerBatcher):
    """Not listed: after a failed call it turns callers away."""

    def fail(self, batch: list[Waiting], error: BaseException) -> None:
        super().fail(batch, error)
        self.state = "failed"


class ErrorWithoutItsCause(TimerBatcher):
    """Not listed: callers learn that something failed, and not what."""

    def wrapped(self, error: BaseException) -> BaseException:
        return RuntimeError("the batch failed")


# Callers who give up


class ResultForTheCancelled(WorkerBatcher):
    """B10: set_result on a cancelled future ends the worker (NVIDIA/TensorRT-LLM#15424)."""

    def give(self, entry: Waiting, result: Any) -> None:
        entry.future.set_result(result)


class ErrorForTheCancelled(WorkerBatcher):
    """B10: set_exception on a cancelled future ends the worker (modal-labs/modal-client#2271)."""

    def tell(self, entry: Waiting, error: BaseException) -> None:
        entry.future.set_exception(self.wrapped(error))


class LookedAtTooEarly(TimerBatcher):
    """B10: an await between the look at the future and its result."""

    async def serve(self, batch: list[Waiting]) -> None:
        results = await self.function(self.collate(batch))
        left = [(e, r) for e, r in zip(batch, results, strict=True) if not e.future.done()]
        await asyncio.sleep(0)
        for entry, result in left:
            entry.future.set_result(result)


class CallCancelledWithACaller(TimerBatcher):
    """Not listed: what one caller no longer wants is taken from all."""

    def withdraw(self, entry: Waiting) -> None:
        for task, batch in self.running.items():
            if entry in batch:
                task.cancel()
        super().withdraw(entry)


class FirstCallerKeepsTheWindow(TimerBatcher):
    """B34: the timer is the oldest caller's, and goes with it."""

    def withdraw(self, entry: Waiting) -> None:
        if self.line and self.line[0] is entry:
            self.cancel_timer()
            self.line.remove(entry)
        else:
            super().withdraw(entry)


class CancelledAreSent(TimerBatcher):
    """Not listed: the item of a caller who gave up stays in the line."""

    def withdraw(self, entry: Waiting) -> None:
        pass


class CancelledTakePlaces(TimerBatcher):
    """Not listed: they are not sent, and count as waiting."""

    def __init__(self, function: Any, policy: BatchPolicy) -> None:
        super().__init__(function, policy)
        self.ghosts = 0

    def withdraw(self, entry: Waiting) -> None:
        self.ghosts += entry in self.line
        super().withdraw(entry)

    def has_room(self) -> bool:
        bound = self.policy.max_queue_size
        return bound is None or len(self.line) + self.ghosts < bound


class Shielded(TimerBatcher):
    """Not listed: a caller that gives up is kept until its result is there."""

    async def outcome(self, item: Any) -> Any:
        call = asyncio.ensure_future(super().outcome(item))
        while not call.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(call)
        return call.result()


class NoneForTheCancelled(TimerBatcher):
    """Not listed: a cancellation is swallowed."""

    async def outcome(self, item: Any) -> Any:
        try:
            return await super().outcome(item)
        except asyncio.CancelledError:
            return None


class DeadlineSeenWhenSent(TimerBatcher):
    """Not listed: looked at when a batch is made, and never else."""

    async def submit(self, item: Any, deadline: float | None = None) -> Any:
        loop = asyncio.get_running_loop()
        end = None if deadline is None else loop.time() + deadline
        result = await self.outcome(item)
        if end is not None and loop.time() > end:
            raise TimeoutError
        return result


class SentAfterItsDeadline(TimerBatcher):
    """Not listed: the caller is told, the item is sent all the same."""

    async def submit(self, item: Any, deadline: float | None = None) -> Any:
        call = asyncio.ensure_future(self.outcome(item))
        done, _ = await asyncio.wait([call], timeout=deadline)
        if not done:
            raise TimeoutError
        return call.result()


# Stop


class StopCancelsTheWorker(WorkerBatcher):
    """B12: neither the line nor the batch in its hands is looked at (xorbitsai/inference#5358)."""

    async def stop(self, drain: bool = True) -> None:
        self.state = "stopped"
        self.worker.cancel()


class StopForgetsTheLine(TimerBatcher):
    """B12: only what runs is ended (redpanda-data/redpanda#27650)."""

    def abandon_line(self) -> None:
        self.line, self.outside = [], []


class StopForgetsCalls(TimerBatcher):
    """B12: only the line is told."""

    def abandon_calls(self) -> None:
        for task in self.running:
            task.cancel()

    def fail(self, batch: list[Waiting], error: BaseException) -> None:
        if not isinstance(error, asyncio.CancelledError):
            super().fail(batch, error)


class DrainForgetsLeftovers(TimerBatcher):
    """Not listed: full batches are served, the rest is dropped."""

    async def stop(self, drain: bool = True) -> None:
        if drain and self.state == "running":
            rest = len(self.line) % self.policy.max_batch_size
            gone = self.line[len(self.line) - rest :]
            del self.line[len(self.line) - rest :]
            self.fail(gone, RuntimeError("stopped"))
        await super().stop(drain)


class TakesCallersAfterStop(TimerBatcher):
    """Not listed: their items lie in a line that nobody looks at."""

    def require_running(self) -> None:
        pass

    def can_begin(self) -> bool:
        return self.state != "stopped" and super().can_begin()


class LateCallersForgotten(TimerBatcher):
    """Not listed: the line is emptied, and takes who comes while the last calls run."""

    capabilities = ALL - {"drain", "immediate"}

    def require_running(self) -> None:
        if self.state == "stopped":
            raise RuntimeError("the batcher is stopped")

    def dispatch(self) -> None:
        if self.state == "running":
            super().dispatch()

    async def stop(self, drain: bool = True) -> None:
        self.state = "stopping"
        self.abandon_line()
        if self.running:
            await asyncio.wait([*self.running])
        self.state = "stopped"


class ServesTheLineOnTheWayOut(TimerBatcher):
    """Not listed: a stop at once is none."""

    def abandon_line(self) -> None:
        self.dispatch()


class CallRunsOn(TimerBatcher):
    """Not listed: after a stop at once, the call that ran still does."""

    def abandon_calls(self) -> None:
        for batch in self.running.values():
            self.fail(batch, RuntimeError("the batcher was stopped"))
        self.running = {}

    def end(self, task: asyncio.Task[None]) -> None:
        if task in self.running:
            super().end(task)


class StaysStopped(TimerBatcher):
    """Not listed: the flag of the first stop."""

    async def start(self) -> None:
        if not hasattr(self, "stopped"):
            await super().start()


class ItemsOfTheLifeBefore(TimerBatcher):
    """Not listed: whoever was told of the stop is served after the next start."""

    capabilities = ALL - {"drain"}

    async def stop(self, drain: bool = True) -> None:
        await super().stop(False)

    def abandon_line(self) -> None:
        left = self.line
        super().abandon_line()
        self.left = left

    async def start(self) -> None:
        await super().start()
        self.line = getattr(self, "left", [])


# Bounds, rest and memory


class BoundOfOneMore(TimerBatcher):
    """Not listed: ``<=`` where ``<`` is meant."""

    def has_room(self) -> bool:
        bound = self.policy.max_queue_size
        return bound is None or len(self.line) <= bound


class RefusesAfterWaiting(TimerBatcher):
    """Not listed: callers wait for the window to be turned away."""

    def admit(self, entry: Waiting) -> None:
        self.line.append(entry)

    def send(self, batch: list[Waiting]) -> None:
        super().send(batch)
        bound = self.policy.max_queue_size
        if bound is not None and self.policy.reject_when_full:
            gone, self.line = self.line[bound:], self.line[:bound]
            self.fail(gone, RuntimeError("too many wait"))


class PlaceGoesWithItsCaller(TimerBatcher):
    """Not listed: who gives up in the line takes the place along."""

    def __init__(self, function: Any, policy: BatchPolicy) -> None:
        super().__init__(function, policy)
        self.places = policy.max_queue_size or 999

    def withdraw(self, entry: Waiting) -> None:
        self.places -= entry in self.line
        super().withdraw(entry)

    def has_room(self) -> bool:
        return len(self.line) < self.places


class OneLetInAtATime(TimerBatcher):
    """Not listed: a batch leaves, one caller comes in, and nobody after the last batch."""

    def let_in(self) -> None:
        if len(self.outside) > 1 and self.has_room():
            self.line.append(self.outside.pop(0))


class LooksWhetherSomethingCame(TimerBatcher):
    """Not listed: ten times a window."""

    async def start(self) -> None:
        await super().start()
        self.look()

    def look(self) -> None:
        if self.state == "running":
            asyncio.get_running_loop().call_later(self.policy.max_wait / 10 or 1.0, self.look)


class LooksWhetherASlotIsFree(TimerBatcher):
    """Not listed: while items wait for one."""

    def set_timer(self) -> None:
        super().set_timer()
        if self.line and not self.can_begin():
            loop = asyncio.get_running_loop()
            self.timer = loop.call_later(self.policy.max_wait or 1.0, self.dispatch)


class KeepsItems(TimerBatcher):
    """Not listed: a dict that nobody takes anything out of."""

    def __init__(self, function: Any, policy: BatchPolicy) -> None:
        super().__init__(function, policy)
        self.known: dict[int, Waiting] = {}

    def admit(self, entry: Waiting) -> None:
        self.known[id(entry)] = entry
        super().admit(entry)


class KeepsTasks(TimerBatcher):
    """Not listed: a task for each item, which ends with the batcher."""

    def admit(self, entry: Waiting) -> None:
        super().admit(entry)
        self.tasks = [*getattr(self, "tasks", []), asyncio.create_task(self.stopped.wait())]


class KeepsItemsOfTheCancelled(TimerBatcher):
    """Not listed: taken out where there is a result, and nowhere else."""

    def __init__(self, function: Any, policy: BatchPolicy) -> None:
        super().__init__(function, policy)
        self.known: dict[int, Waiting] = {}

    def admit(self, entry: Waiting) -> None:
        self.known[id(entry)] = entry
        super().admit(entry)

    def give(self, entry: Waiting, result: Any) -> None:
        if not entry.future.done():
            del self.known[id(entry)]
        super().give(entry, result)

    def tell(self, entry: Waiting, error: BaseException) -> None:
        self.known.pop(id(entry), None)
        super().tell(entry, error)


# Drains, and slots


class GoneAsItsResultCame(TimerBatcher):
    """Not listed: who leaves is taken off the count, also where the result had done so."""

    pending = 0

    def admit(self, entry: Waiting) -> None:
        super().admit(entry)
        self.pending += 1

    def give(self, entry: Waiting, result: Any) -> None:
        self.pending -= not entry.future.done()
        super().give(entry, result)

    def withdraw(self, entry: Waiting) -> None:
        self.pending -= 1
        super().withdraw(entry)

    def stop_if_done(self) -> None:
        if self.pending == 0:
            super().stop_if_done()


class DrainWaitsForReaders(TimerBatcher):
    """Not listed: a result counts as taken when its caller goes on, and who left never does."""

    unread = 0

    async def outcome(self, item: Any) -> Any:
        self.unread += 1
        result = await super().outcome(item)
        self.unread -= 1
        self.stop_if_done()
        return result

    def stop_if_done(self) -> None:
        if not self.unread:
            super().stop_if_done()


class DrainAwaitsFutures(TimerBatcher):
    """Not listed: stop waits for all futures, and raises what one of them was."""

    async def stop(self, drain: bool = True) -> None:
        if drain and self.state == "running":
            running = [entry for batch in self.running.values() for entry in batch]
            await asyncio.gather(*(entry.future for entry in running))
        await super().stop(drain)


class DrainJoinsTheQueue(WorkerBatcher):
    """Not listed: as `asyncio.Queue.join`, with task_done where a result is taken."""

    async def start(self) -> None:
        await super().start()
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    async def submit(self, item: Any) -> Any:
        self.queue.put_nowait(item)
        result = await super().submit(item)
        self.queue.task_done()
        return result

    async def stop(self, drain: bool = True) -> None:
        self.state = "stopping" if self.state == "running" else self.state
        await self.queue.join()
        self.state = "running" if self.state == "stopping" else self.state
        await super().stop(drain)


class SlotOfTheCallers(TimerBatcher):
    """Not listed: a call for which nobody waits does not count."""

    def can_begin(self) -> bool:
        batches = self.running.values()
        awaited = [batch for batch in batches if any(not e.future.done() for e in batch)]
        return len(awaited) < self.policy.max_concurrency


class FirstLeaverFreesTheSlot(TimerBatcher):
    """Not listed: the slot is given back by whoever leaves."""

    freed = 0

    def withdraw(self, entry: Waiting) -> None:
        self.freed += any(entry in batch for batch in self.running.values())
        super().withdraw(entry)

    def end(self, task: asyncio.Task[None]) -> None:
        self.freed = 0
        super().end(task)

    def can_begin(self) -> bool:
        return len(self.running) - self.freed < self.policy.max_concurrency


class SlotHeldByACaller(BatchTasks):
    """Not listed: the first caller of a batch awaits its call inside the semaphore, shielded."""

    capabilities = BatchTasks.capabilities - {"window", "age"}

    async def submit(self, item: Any) -> Any:
        entry = self.waiting(item)
        self.open.append(entry)
        first = len(self.open) == 1
        if first:
            await asyncio.sleep(self.policy.max_wait)
            batches, self.open = self.open, []
            size = self.policy.max_batch_size
            for start in range(0, len(batches), size):
                async with self.slots:
                    call = asyncio.create_task(self.serve(batches[start : start + size]))
                    await asyncio.shield(call)
        return await entry.future


class DeadlineFreesTheSlot(TimerBatcher):
    """Not listed: a call is given up at its callers' deadline, and runs on."""

    async def submit(self, item: Any, deadline: float | None = None) -> Any:
        try:
            return await super().submit(item, deadline)
        except TimeoutError:
            for task, batch in [*self.running.items()]:
                if item in [entry.item for entry in batch]:
                    del self.running[task]
            self.dispatch()
            raise

    def end(self, task: asyncio.Task[None]) -> None:
        if task in self.running:
            super().end(task)


@dataclass(frozen=True)
class BatcherMutant:
    fault: Callable[..., Outcomes] | Any
    broken: str


OWN = "test_every_caller_gets_its_own_result"
LEFTOVERS = "test_leftovers_are_served_without_later_arrivals"
AS_SENT = "test_whoever_comes_while_a_batch_is_sent_is_served"
STEADY = "test_steady_arrivals_do_not_prolong_the_window"
LATE = "test_a_late_second_item_does_not_prolong_the_window"
TOGETHER = "test_items_submitted_together_share_calls"
OPEN = "test_items_that_wait_for_a_slot_share_calls"
WINDOW = "test_items_within_the_window_share_a_call"
FULL = "test_a_full_batch_is_sent_at_once"
NO_WINDOW = "test_without_a_window_nobody_waits"
ANY_ORDER = "test_results_go_to_their_callers_whichever_call_ends_first"
FREE_SLOT = "test_a_running_call_holds_up_no_free_slot"
FAILING = "test_a_failing_call_fails_its_own_callers_alone"
END = "test_an_end_of_any_kind_leaves_nobody_waiting"
COUNT = "test_a_wrong_number_of_results_fails_the_call"
NO_LIST = "test_what_is_no_list_of_results_fails_the_call"
ITEM = "test_any_object_may_be_an_item"
EQUAL = "test_equal_items_have_an_outcome_each"
RESULT = "test_any_object_may_be_a_result"
ITEM_ERROR = "test_an_exception_among_the_results_fails_its_item_alone"
WAITS = "test_a_caller_cancelled_while_it_waits_leaves_the_others_alone"
IN_OPEN = "test_a_caller_cancelled_in_an_open_batch_leaves_the_others_alone"
SERVED = "test_a_caller_cancelled_while_it_is_served_leaves_the_others_alone"
AS_IT_COMES = "test_a_caller_cancelled_as_its_result_comes_leaves_the_others_alone"
GIVE_UP = "test_callers_that_give_up_in_time_are_told_so"
NOT_SENT = "test_an_item_whose_caller_is_gone_is_not_sent"
DEADLINES = "test_deadlines_are_kept"
STOP = "test_after_a_stop_nobody_waits"
STOPPED = "test_a_stopped_batcher_turns_callers_away"
STOPPING = "test_callers_that_come_while_it_stops_do_not_wait"
DRAIN = "test_a_stop_that_drains_serves_all"
TRIED_AGAIN = "test_a_caller_cancelled_while_its_item_is_tried_again_leaves_the_others_alone"
DRAIN_LEFT = "test_a_drain_ends_after_a_caller_left_as_its_result_came"
SLOT = "test_a_call_whose_callers_are_gone_keeps_its_slot"
AT_ONCE = "test_a_stop_at_once_serves_nothing_more"
AGAIN = "test_a_stopped_batcher_starts_again"
REJECTS = "test_a_full_line_turns_callers_away"
OUTSIDE = "test_a_full_line_lets_callers_wait_outside"
IDLE = "test_nothing_wakes_the_loop_while_nothing_can_be_done"
ROUNDS = "test_many_rounds_leave_nothing_behind"
ANY = "test_any_interleaving_gives_each_caller_one_outcome"
MUTANTS = [
    BatcherMutant(EventClearedWhileItemsRemain, LEFTOVERS),
    BatcherMutant(EventClearedWhileItemsRemain, ANY),
    BatcherMutant(OnlyFullBatches, LEFTOVERS),
    BatcherMutant(Debounce, STEADY),
    BatcherMutant(Debounce, ANY),
    BatcherMutant(WholeWindowAgain, LATE),
    BatcherMutant(NeverWaits, TOGETHER),
    BatcherMutant(LimitBelowABatch, TOGETHER),
    BatcherMutant(EventReplaced, AS_SENT),
    BatcherMutant(FullNotSent, FULL),
    BatcherMutant(SizeLookedAtBefore, FULL),
    BatcherMutant(OneTooMany, TOGETHER),
    BatcherMutant(SentTwice, LEFTOVERS),
    BatcherMutant(LastInFirstOut, OWN),
    BatcherMutant(WindowFromTheSlot, LEFTOVERS),
    BatcherMutant(TimerOfASentBatch, WINDOW),
    BatcherMutant(ZeroIsNoWindow, NO_WINDOW),
    BatcherMutant(ClosedBeforeItCanBegin, OPEN),
    BatcherMutant(OneSlot, FREE_SLOT),
    BatcherMutant(OneSlotTooMany, LEFTOVERS),
    BatcherMutant(SlotOfAFailedCall, FAILING),
    BatcherMutant(OrderOfCompletion, ANY_ORDER),
    BatcherMutant(SortedAndNotBack, OWN),
    BatcherMutant(ZipWithoutStrict, COUNT),
    BatcherMutant(LengthIsAll, NO_LIST),
    BatcherMutant(TakenByPlace, SERVED),
    BatcherMutant(FuturesUnderItems, EQUAL),
    BatcherMutant(FalsyIsNoResult, RESULT),
    BatcherMutant(ErrorAsResult, ITEM_ERROR),
    BatcherMutant(ErrorOfOneForAll, ITEM_ERROR),
    BatcherMutant(RefusedByTheFuture, ITEM_ERROR),
    BatcherMutant(NobodyIsTold, FAILING),
    BatcherMutant(WorkerDies, FAILING),
    BatcherMutant(WorkerDies, ANY),
    BatcherMutant(MeasuredOutside, ITEM),
    BatcherMutant(CancelledIsNoException, END),
    BatcherMutant(NoneIsTheEnd, ITEM),
    BatcherMutant(FalsyIsNoItem, ITEM),
    BatcherMutant(ErrorForAllWhoWait, FAILING),
    BatcherMutant(ErrorEndsIt, FAILING),
    BatcherMutant(ErrorWithoutItsCause, FAILING),
    BatcherMutant(ResultForTheCancelled, SERVED),
    BatcherMutant(ErrorForTheCancelled, SERVED),
    BatcherMutant(LookedAtTooEarly, AS_IT_COMES),
    BatcherMutant(CallCancelledWithACaller, SERVED),
    BatcherMutant(FirstCallerKeepsTheWindow, IN_OPEN),
    BatcherMutant(CancelledAreSent, NOT_SENT),
    BatcherMutant(CancelledTakePlaces, REJECTS),
    BatcherMutant(Shielded, GIVE_UP),
    BatcherMutant(NoneForTheCancelled, WAITS),
    BatcherMutant(DeadlineSeenWhenSent, DEADLINES),
    BatcherMutant(SentAfterItsDeadline, DEADLINES),
    BatcherMutant(StopCancelsTheWorker, STOP),
    BatcherMutant(StopCancelsTheWorker, ANY),
    BatcherMutant(StopForgetsTheLine, AT_ONCE),
    BatcherMutant(StopForgetsCalls, AT_ONCE),
    BatcherMutant(DrainForgetsLeftovers, DRAIN),
    BatcherMutant(TakesCallersAfterStop, STOPPED),
    BatcherMutant(LateCallersForgotten, STOPPING),
    BatcherMutant(ServesTheLineOnTheWayOut, AT_ONCE),
    BatcherMutant(CallRunsOn, AT_ONCE),
    BatcherMutant(StaysStopped, AGAIN),
    BatcherMutant(ItemsOfTheLifeBefore, AGAIN),
    BatcherMutant(BoundOfOneMore, REJECTS),
    BatcherMutant(RefusesAfterWaiting, REJECTS),
    BatcherMutant(PlaceGoesWithItsCaller, OUTSIDE),
    BatcherMutant(OneLetInAtATime, OUTSIDE),
    BatcherMutant(LooksWhetherSomethingCame, IDLE),
    BatcherMutant(LooksWhetherASlotIsFree, IDLE),
    BatcherMutant(KeepsItems, ROUNDS),
    BatcherMutant(KeepsTasks, ROUNDS),
    BatcherMutant(KeepsItemsOfTheCancelled, ROUNDS),
    BatcherMutant(GoneAsItsResultCame, DRAIN_LEFT),
    BatcherMutant(DrainWaitsForReaders, DRAIN_LEFT),
    BatcherMutant(DrainAwaitsFutures, DRAIN_LEFT),
    BatcherMutant(DrainJoinsTheQueue, DRAIN_LEFT),
    BatcherMutant(SlotOfTheCallers, SLOT),
    BatcherMutant(FirstLeaverFreesTheSlot, SLOT),
    BatcherMutant(SlotHeldByACaller, SLOT),
    BatcherMutant(DeadlineFreesTheSlot, SLOT),
    BatcherMutant(declared.OneAfterTheOther, TOGETHER),
    BatcherMutant(declared.NothingGathers, LEFTOVERS),
    BatcherMutant(declared.NothingGathers, ANY),
    BatcherMutant(declared.SecondsForMilliseconds, LATE),
    BatcherMutant(declared.SecondsForMilliseconds, ANY),
    BatcherMutant(declared.WindowOfTwoClocks, LEFTOVERS),
    BatcherMutant(declared.FirstFailureEndsTheRetries, FAILING),
    BatcherMutant(declared.RetriesTheBatch, FAILING),
    BatcherMutant(declared.RetriesTheBatch, ANY),
    BatcherMutant(declared.RetriesAllButOne, FAILING),
    BatcherMutant(declared.RetriesWhatWorked, COUNT),
    BatcherMutant(declared.RetriesEndWithWhoLeaves, TRIED_AGAIN),
    BatcherMutant(declared.RetriesNobodyAfterWhoLeft, TRIED_AGAIN),
    BatcherMutant(declared.NeverRecovers, FAILING),
    BatcherMutant(declared.WaitsUntilItRecovers, ANY),
    BatcherMutant(declared.ZeroIsNoDeadline, DEADLINES),
    BatcherMutant(declared.LoadsOneByOne, TOGETHER),
    BatcherMutant(declared.LoadsTheFirstCallAlone, LEFTOVERS),
    BatcherMutant(declared.LoadsTooMany, OWN),
]
