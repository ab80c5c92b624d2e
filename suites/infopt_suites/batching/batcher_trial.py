"""A batcher at work on virtual time: its callers, the calls of the batch function, and whether both
fit together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from ..base import Suite
from .clock import LATENESS, names_of, run_virtual
from .protocol import Batcher, BatchFunction, BatchPolicy, DrainingBatcher, MakeBatcher

Serve = Callable[["Call"], Awaitable[Any]]
Scenario = Callable[[Any], Awaitable[None]]  # on a trial
SLACK = 1000 * LATENESS  # seconds: as many waits may follow one another
PATIENCE = 100.0  # windows until a caller counts as forgotten


@dataclass(eq=False)
class Item:
    """What is submitted: one like no other."""

    number: int

    def __repr__(self) -> str:
        return f"item {self.number}"


@dataclass(eq=False)
class Call:
    """A call of the batch function. ``outcome``: what ends it, where the test decides that."""

    index: int
    items: list[Any]
    started: float
    outcome: asyncio.Future[Any]
    ended: float | None = None

    def answers(self) -> list[Any]:
        return [answer(item) for item in self.items]


@dataclass(eq=False)
class Caller:
    """A task that waits for its item's result."""

    item: Any
    submitted: float
    task: asyncio.Task[Any]
    ended: float | None = None

    def end(self, task: asyncio.Task[Any]) -> None:
        self.ended = task.get_loop().time()
        _ = self.error  # of callers that nobody asks, asyncio would tell it

    @property
    def error(self) -> BaseException | None:
        """What it got instead of a result, its own cancellation among them."""
        if self.task.cancelled():
            return asyncio.CancelledError()
        return self.task.exception()

    @property
    def served(self) -> bool:
        return self.task.done() and self.error is None


@dataclass
class Trial:
    """Callers on one batcher. ``serve``: what a call of the batch function does. It has to be made
    in the event loop."""

    make_batcher: MakeBatcher
    policy: BatchPolicy
    serve: Serve
    capabilities: Collection[str] = ()
    calls: list[Call] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)

    _made: ClassVar[type[Call]] = Call

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.batcher: Batcher = self.make_batcher(cast(BatchFunction, self._call), self.policy)
        self._num_running = 0
        self._most_running = 0
        # When how many calls ran: whether a call could have begun.
        self._running: list[tuple[float, int]] = [(self.loop.time(), 0)]

    # What callers do

    def submit(self, item: Any = None, **options: Any) -> Caller:
        """A caller that submits in the loop's next turn, an item of its own if none is given."""
        item = Item(len(self.callers)) if item is None else item
        return self.submit_exactly(item, **options)

    def submit_exactly(self, item: Any, **options: Any) -> Caller:
        return self.add(item, self.batcher.submit(item, **options))

    def add(self, item: Any, call: Coroutine[Any, Any, Any]) -> Caller:
        """A caller that awaits ``call``, which submits the item."""
        task = self.loop.create_task(call, name=f"caller {len(self.callers)}")
        caller = Caller(item, self.loop.time(), task)
        task.add_done_callback(caller.end)
        self.callers.append(caller)
        return caller

    def submit_all(self, count: int) -> list[Caller]:
        return [self.submit() for _ in range(count)]

    async def pause(self, seconds: float = 0.0) -> None:
        """Let time pass, and after it all that happens without any."""
        await asyncio.sleep(seconds)
        for _ in range(12):
            await asyncio.sleep(0)

    async def until_done(
        self, callers: Iterable[Caller] | None = None, within: float | None = None
    ) -> None:
        """Raise AssertionError unless callers, all of them if none are given, end in time."""
        tasks = [caller.task for caller in (self.callers if callers is None else callers)]
        if not tasks:
            return
        within = PATIENCE * max(self.policy.max_wait, 1.0) if within is None else within
        _, pending = await asyncio.wait(tasks, timeout=within + SLACK)
        assert not pending, (
            f"{names_of(pending)} still wait {within:g} s after the last event; {self._told()}"
        )

    async def until_served(
        self, callers: Iterable[Caller] | None = None, within: float | None = None
    ) -> None:
        """Raise AssertionError unless callers get their own results in time."""
        callers = list(self.callers if callers is None else callers)
        await self.until_done(callers, within)
        for caller in callers:
            self.check_result(caller)

    def check_result(self, caller: Caller) -> None:
        name = caller.task.get_name()
        assert caller.error is None, f"{name} got {caller.error!r}; {self._told()}"
        result = caller.task.result()
        assert result == answer(caller.item), (
            f"{name} submitted {named(caller.item)} and got {result!r}; {self._told()}"
        )

    async def stop(self, drain: bool | None = None) -> None:
        if drain is None:
            await self.batcher.stop()
        else:
            await cast(DrainingBatcher, self.batcher).stop(drain)

    async def finish_all(self) -> None:
        """Let held calls end until none is made any more."""
        for _ in range(20):
            for call in self.open_calls:
                finish(call)
            await self.pause(self.policy.max_wait)

    # What the batch function does

    @property
    def open_calls(self) -> list[Call]:
        return [call for call in self.calls if call.ended is None]

    @property
    def sizes(self) -> list[int]:
        return [len(call.items) for call in self.calls]

    async def _call(self, items: list[Any]) -> Any:
        call = self._made(len(self.calls), list(items), self.loop.time(), self.loop.create_future())
        self.calls.append(call)
        self._count_running(+1)
        try:
            return await self.serve(call)
        finally:
            call.ended = self.loop.time()
            self._count_running(-1)

    def _count_running(self, change: int) -> None:
        self._num_running += change
        self._most_running = max(self._most_running, self._num_running)
        self._running.append((self.loop.time(), self._num_running))

    # What has to hold

    def check(self, *, window: bool = True) -> None:
        """Raise AssertionError unless calls fit the callers and the policy so far.

        ``window``: also that nobody waited longer than the window allows.
        """
        self.check_sizes()
        started: dict[int, float] = {}
        for call in self.calls:
            for item in call.items:
                assert id(item) not in started, f"{named(item)} was sent twice; {self._told()}"
                started[id(item)] = call.started
        strangers = started.keys() - {id(caller.item) for caller in self.callers}
        assert not strangers, f"the batch function got what nobody submitted; {self._told()}"
        if "order" in self.capabilities:
            self._check_order()
        if window:
            for caller in self.callers:
                self._check_wait(caller, started.get(id(caller.item)))

    def check_sizes(self) -> None:
        most, at_once = self.policy.max_batch_size, self.policy.max_concurrency
        for call in self.calls:
            assert 0 < len(call.items) <= most, (
                f"a call of {len(call.items)} items, max_batch_size is {most}; {self._told()}"
            )
        assert self._most_running <= at_once, (
            f"{self._most_running} calls ran at a time, max_concurrency is {at_once}"
        )

    def _check_order(self) -> None:
        places = {id(caller.item): place for place, caller in enumerate(self.callers)}
        sent = [places[id(item)] for call in self.calls for item in call.items]
        assert sent == sorted(sent), f"items were not sent in the order they came; {self._told()}"

    def _check_wait(self, caller: Caller, started: float | None) -> None:
        if started is None:
            started = self.loop.time() if caller.ended is None else caller.ended
        free = list(self._free_times(caller.submitted, started))
        window = self.policy.max_wait
        waited = started - caller.submitted
        if "age" in self.capabilities:  # from its age on, every free slot is too late
            late = sum(
                end - max(begin, caller.submitted + window)
                for begin, end in free
                if end > caller.submitted + window
            )
            assert late <= SLACK, (
                f"{named(caller.item)} waited {waited:g} s, {late:g} s of them beyond the window "
                f"of {window:g} s while a call could have begun; {self._told()}"
            )
        longest = max((end - begin for begin, end in free), default=0.0)
        assert longest <= window + SLACK, (
            f"{named(caller.item)} waited {longest:g} s while a call could have begun, the window "
            f"is {window:g} s; {self._told()}"
        )

    def _free_times(self, begin: float, end: float) -> Iterable[tuple[float, float]]:
        """The stretches from begin to end in which fewer calls ran than may."""
        since: float | None = None
        for moment, running in [*self._running, (end, self.policy.max_concurrency)]:
            moment = min(max(moment, begin), end)
            if running < self.policy.max_concurrency:
                since = moment if since is None else since
            elif since is not None:
                yield since, moment
                since = None

    def _told(self) -> str:
        return "calls so far: " + (told(self.calls) or "none")


class TrialSuite(Suite):
    """A suite whose properties are scenarios on a trial."""

    batch_sizes: ClassVar[Sequence[int]] = (1, 2, 3, 5)
    max_wait: ClassVar[float] = 8.0  # seconds of virtual time
    _trial = Trial

    def run_each_size(
        self, make: Any, scenario: Scenario, serve: Serve | float = 0.0, **options: Any
    ) -> None:
        """`run` with each of ``batch_sizes``."""
        __tracebackhide__ = True
        for size in self.batch_sizes:
            self.run(make, scenario, serve, size, **options)

    def run(
        self,
        make: Any,
        scenario: Scenario,
        serve: Serve | float = 0.0,
        size: int = 3,
        *,
        judged: bool = True,
        window: bool = True,
        **policy: float,
    ) -> None:
        """Run a scenario on a batcher that has started, and check its calls.

        ``make``: the suite's fixture. ``serve``: what a call does, or how many seconds it takes.
        ``judged``, ``window``: whether calls are checked, and their times.
        """
        __tracebackhide__ = True

        made = BatchPolicy(size, **{"max_wait": self.max_wait, **policy})  # type: ignore[arg-type]  # its own fields
        does = after(serve) if isinstance(serve, int | float) else serve
        alive: list[Trial] = []  # a worker that is still there must not be collected with it

        async def trying() -> None:
            alive.append(self._trial(make, made, does, frozenset(self.capabilities)))
            await alive[0].batcher.start()
            await scenario(alive[0])
            if judged:
                alive[0].check(window=window)

        run_virtual(trying())


def after(seconds: float) -> Serve:
    """A batch function that answers after some time."""

    async def serve(call: Call) -> Any:
        await asyncio.sleep(seconds)
        return call.answers()

    return serve


async def held(call: Call) -> Any:
    """A batch function that answers when the test lets the call `finish`."""
    return await call.outcome


def finish(call: Call, error: BaseException | None = None) -> None:
    """End a held call."""
    if not call.outcome.done():  # a batcher may have cancelled it
        if error is None:
            call.outcome.set_result(call.answers())
        else:
            call.outcome.set_exception(error)


def told(calls: Sequence[Call], most: int = 12) -> str:
    """Calls in words."""
    words = [
        f"[{', '.join(map(named, call.items))}] at {call.started:g} s" for call in calls[:most]
    ]
    return "; ".join(words) + ("; …" if len(calls) > most else "")


def named(item: Any) -> str:
    """An item in words, which need not be willing to be shown."""
    if isinstance(item, Item | str):
        return repr(item)
    return f"an object of {type(item).__name__}"


def answer(item: Any) -> Any:
    """The right result: no two items have the same."""
    return ("answer to", id(item))
