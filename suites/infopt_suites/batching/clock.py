"""Coroutines on virtual time, which passes only while there is nothing to do: hours take
milliseconds, and each run is like every other. Python's own clocks follow it (`wall_clock`).

A run also fails on what nobody would see otherwise: callers that wait for ever, tasks that died,
callbacks that raised, loops that never rest, and code that gives the loop no turn (`watchdog`).
"""

from __future__ import annotations

import asyncio
import gc
import math
import selectors
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, TypeVar

from ..properties import FinalError
from ..wall_clock import virtual_time
from .watchdog import WATCHDOG, BlockedError, place, watched

Value = TypeVar("Value")

# Seconds by which a wait ends late, as on real loops. It is more than float64 rounds `time.time` to
# (2⁻²² s), so that whoever has waited until a deadline finds it passed on every clock.
LATENESS = 2.0**-20
LONGEST_RUN = 20_000.0  # seconds of virtual time
MOST_TURNS = 20_000  # of the event loop, without a pause
MOST_SLEEPS = 1_000  # calls of time.sleep in one turn
SPEED = 400.0  # of the clock that threads need: a window of 8 s takes 20 ms
LONGEST_WAIT = 1.0  # real seconds, after which a `RealLoop` has a turn of no use


HOW_ELSE = (
    "virtual time passes in the event loop alone; what waits in threads, in processes or in "
    "synchronous calls is tried on the real clock, with virtual = False"
)
ENOUGH = 2  # runs that something blocked, until all others of an implementation fail at once


class StuckError(AssertionError):
    """Nothing will happen any more, or what happens leads nowhere."""


class BlockingError(StuckError, FinalError):
    """Something keeps the event loop's thread, so that nothing else can happen."""


class _Selector(selectors.DefaultSelector):
    """Where an event loop would wait, time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.limit = LONGEST_RUN
        self.turns = 0
        self._turns_now = 0
        self._sleeps = 0

    def forget_turns(self) -> None:
        """Begin to count anew how many turns there are without a pause."""
        self._turns_now = 0

    def sleep(self, seconds: float) -> None:
        """What `time.sleep` does in the loop's thread: nobody else has a turn meanwhile."""
        self._sleeps += 1
        if self._sleeps > MOST_SLEEPS:
            raise BlockedError(
                f"{MOST_SLEEPS} calls of time.sleep in one turn of the event loop: "
                f"{place(sys._getframe(2))} keeps its thread"
            )
        self.now += seconds + LATENESS

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        self._turns_now += 1
        self._sleeps = 0
        events = super().select(0)
        if events or timeout == 0:
            if self._turns_now > MOST_TURNS:
                raise StuckError(f"{MOST_TURNS} turns of the event loop without a pause")
            return events
        if timeout is None:
            raise StuckError("nothing is left to happen")
        self._turns_now = 0
        self.now += timeout + LATENESS
        if self.now > self.limit:
            raise StuckError(f"{self.now:.0f} seconds of virtual time have passed")
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time. What is given to a thread happens at once."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    @property
    def turns(self) -> int:
        """How often it woke up."""
        return self._virtual.turns

    def lift_limit(self) -> None:
        """Let it run for ever, also after it was stuck."""
        self._virtual.limit = math.inf
        self._virtual.forget_turns()

    def sleep(self, seconds: float) -> None:
        """Let time pass in the midst of a turn, as a synchronous wait does."""
        self._virtual.sleep(seconds)

    def run_in_executor(  # type: ignore[override]  # any executor, and no thread
        self, executor: object, func: Callable[..., Value], *args: Any
    ) -> asyncio.Future[Value]:
        future: asyncio.Future[Value] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class _FastSelector(selectors.DefaultSelector):
    """Where an event loop would wait, it waits for a `SPEED`-th of the time."""

    turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        seconds = LONGEST_WAIT if timeout is None else timeout / SPEED
        return super().select(min(seconds, LONGEST_WAIT))


class RealLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock runs `SPEED` times as fast as the real one, for threads.

    What is given to an executor gets a thread that no exit waits for.
    """

    def __init__(self) -> None:
        self._fast = _FastSelector()
        super().__init__(self._fast)

    def time(self) -> float:
        return time.monotonic() * SPEED

    @property
    def turns(self) -> int:
        """How often it woke up."""
        return self._fast.turns

    def run_in_executor(  # type: ignore[override]  # any executor, and a thread of its own
        self, executor: object, func: Callable[..., Value], *args: Any
    ) -> asyncio.Future[Value]:
        future: asyncio.Future[Value] = self.create_future()

        def end(set_outcome: Callable[[Any], None], outcome: Any) -> None:
            if not future.done():
                set_outcome(outcome)

        def work() -> None:
            try:
                told: tuple[Callable[[Any], None], Any] = future.set_result, func(*args)
            except Exception as error:
                told = future.set_exception, error
            with suppress(RuntimeError):  # the loop is closed
                self.call_soon_threadsafe(end, *told)

        threading.Thread(target=work, daemon=True).start()
        return future


class VirtualClock:
    """An event loop of its own, in which coroutines are run one after the other.

    ``blocked``: what has blocked other loops of the same implementation. To notice takes long, so
    that nothing is run where it happened `ENOUGH` times.
    """

    def __init__(self, blocked: list[str] | None = None) -> None:
        self._blocked = [] if blocked is None else blocked
        self._threads_before = set(threading.enumerate())
        self.loop = self._made()
        self.loop.set_exception_handler(self._note)
        self._errors: list[str] = []

    def _made(self) -> VirtualLoop | RealLoop:
        return VirtualLoop()

    def run(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        """What the coroutine returns.

        Raises AssertionError if nothing would ever wake it up, if something keeps the loop's
        thread, and for any task or callback that ended with an exception that nobody saw.
        """
        __tracebackhide__ = True
        if len(self._blocked) >= ENOUGH:
            coroutine.close()
            raise BlockingError(f"not run, as in {ENOUGH} other runs {self._blocked[-1]}")
        task = self.loop.create_task(coroutine, name="the test")
        try:
            with self._running():
                result = self.loop.run_until_complete(task)
        except BlockedError as error:
            self._blocked.append(f"{error}; {HOW_ELSE}")
            raise BlockingError(self._blocked[-1]) from None
        except StuckError as error:
            names = names_of(asyncio.all_tasks(self.loop))
            raise StuckError(f"{error}, and there wait: {names}{self._threads_told()}") from None
        self._raise_errors()
        return result

    def check(self) -> None:
        """Raise AssertionError for tasks that died in what was run, and that nobody awaited."""
        gc.collect(1)  # it is told when they are collected
        self._raise_errors()

    def close(self) -> None:
        """Cancels what still runs."""
        self.loop.set_exception_handler(lambda loop, context: None)
        if isinstance(self.loop, VirtualLoop):
            self.loop.lift_limit()
        with suppress(StuckError, BlockedError), self._running():
            for _ in range(3):  # some go on when they are cancelled, or leave others behind
                self._cancel_all()
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()

    @contextmanager
    def _running(self) -> Iterator[None]:
        with watched(lambda: self.loop.turns), self._clocks():
            yield

    def _clocks(self) -> AbstractContextManager[None]:
        if isinstance(self.loop, VirtualLoop):
            return virtual_time(self.loop.time, self.loop.sleep)
        return nullcontext()

    def _threads_told(self) -> str:
        """Threads that began meanwhile, which may be why nothing happens."""
        begun = set(threading.enumerate()) - self._threads_before
        names = sorted(thread.name for thread in begun if thread.name != WATCHDOG)
        return f"; it runs threads ({', '.join(names)}), and {HOW_ELSE}" if names else ""

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # The exception of a plain future is often told in other ways as well; a task has died.
        if (
            "handle" in context
            or "task" in context
            or isinstance(context.get("future"), asyncio.Task)
        ):
            self._errors.append(f"{context['message']}: {context.get('exception')!r}")

    def _raise_errors(self) -> None:
        errors, self._errors = self._errors, []
        assert not errors, "; ".join(errors)


class RealClock(VirtualClock):
    """The same on the real clock, `SPEED` times as fast."""

    def _made(self) -> VirtualLoop | RealLoop:
        return RealLoop()


def run_virtual(coroutine: Coroutine[Any, Any, Value], blocked: list[str] | None = None) -> Value:
    """What a coroutine returns that is run on a `VirtualClock` of its own."""
    __tracebackhide__ = True
    return _run_on(VirtualClock(blocked), coroutine)


def run_real(coroutine: Coroutine[Any, Any, Value], blocked: list[str] | None = None) -> Value:
    """What a coroutine returns that is run on a `RealClock` of its own."""
    __tracebackhide__ = True
    return _run_on(RealClock(blocked), coroutine)


def _run_on(clock: VirtualClock, coroutine: Coroutine[Any, Any, Value]) -> Value:
    __tracebackhide__ = True
    try:
        result = clock.run(coroutine)
        clock.check()
        return result
    finally:
        clock.close()


def names_of(tasks: Iterable[asyncio.Task[Any]], most: int = 6) -> str:
    """The names of tasks, the first few of them."""
    names = sorted(task.get_name() for task in tasks)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
