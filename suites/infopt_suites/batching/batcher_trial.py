"""A batcher at work on virtual time: its callers, the calls of the batch function, and whether both
fit together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

from .batcher_calls import (
    Call,
    Caller,
    Item,
    Serve,
    answer,
    check_told,
    finish,
    named,
    told,
)
from .clock import LATENESS, SPEED, names_of
from .contract import ProtocolError, ask
from .protocol import (
    Batcher,
    BatchFunction,
    BatchPolicy,
    DrainingBatcher,
    MakeBatcher,
    PunctualBatcher,
)

SLACK = 1000 * LATENESS  # seconds: as many waits may follow one another
# Windows in which nothing happens, until a caller counts as forgotten; no call takes longer.
PATIENCE = 12.0
REAL_PATIENCE = 20.0  # real seconds, where threads may be late


@dataclass(frozen=True)
class Declared:
    """What a suite's class attributes say of a batcher (`trial_suite.TrialSuite`)."""

    capabilities: frozenset[str] = frozenset()
    sends_at_once: bool = False
    unbounded_calls: bool = False
    retries_one_by_one: bool = False
    recovers_within: float = 0.0
    virtual: bool = True


@dataclass
class Trial:
    """Callers on one batcher. ``serve``: what a call of the batch function does. It has to be made
    in the event loop."""

    make_batcher: MakeBatcher
    policy: BatchPolicy
    serve: Serve
    declared: Declared = Declared()
    calls: list[Call] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)

    _made: ClassVar[type[Call]] = Call

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        policy = self.policy
        if not self.declared.virtual:
            policy = replace(policy, max_wait=policy.max_wait / SPEED)
        self.batcher: Batcher = self.make_batcher(cast(BatchFunction, self._call), policy)
        self._most_calls = (
            math.inf if self.declared.unbounded_calls else self.policy.max_concurrency
        )
        self._num_running = 0
        self.most_running = 0
        # When how many calls ran: whether a call could have begun.
        self._running: list[tuple[float, int]] = [(self.loop.time(), 0)]

    # What callers do

    async def start(self) -> None:
        await ask(Batcher, self.batcher, "start")

    async def stop(self, drain: bool | None = None) -> None:
        if drain is None:
            await ask(Batcher, self.batcher, "stop")
        else:
            await ask(DrainingBatcher, self.batcher, "stop", drain)

    def ask(self, item: Any, **options: Any) -> Coroutine[Any, Any, Any]:
        """What the batcher's ``submit`` gives."""
        protocol = PunctualBatcher if options else Batcher
        return ask(protocol, self.batcher, "submit", item, **options)

    def submit(self, item: Any = None, **options: Any) -> Caller:
        """A caller that submits in the loop's next turn, an item of its own if none is given."""
        item = Item(len(self.callers)) if item is None else item
        return self.submit_exactly(item, **options)

    def submit_exactly(self, item: Any, **options: Any) -> Caller:
        return self.add(item, self.ask(item, **options))

    def add(self, item: Any, call: Coroutine[Any, Any, Any]) -> Caller:
        """A caller that awaits ``call``, which submits the item."""
        task = self.loop.create_task(call, name=f"caller {len(self.callers)}")
        caller = Caller(item, self.loop.time(), task)
        task.add_done_callback(caller.end)
        self.callers.append(caller)
        return caller

    def submit_all(self, count: int) -> list[Caller]:
        return [self.submit() for _ in range(count)]

    async def submit_into_a_call(self, count: int) -> list[Caller]:
        """Callers whose items are in one call that runs; calls have to be held.

        Where a batch is sent at once, an item before them takes the slot while they gather.
        """
        before = self.submit_all(1) if self.declared.sends_at_once else []
        await self.pause()
        callers = self.submit_all(count)
        await self.pause(self.policy.max_wait)
        for caller in before:
            call = self.last_call(caller)
            if call is not None:
                finish(call)
        await self.pause(self.policy.max_wait if before else 0.0)
        items = {id(caller.item) for caller in callers}
        running = [call for call in self.open_calls if items & {*map(id, call.items)}]
        assert [len(call.items) for call in running] == [count], (
            f"of {count} items that came at once, calls of {[len(c.items) for c in running]} run "
            f"after the window; {self.told()}"
        )
        return callers

    async def pause(self, seconds: float = 0.0) -> None:
        """Let time pass, and after it all that happens without any."""
        await asyncio.sleep(seconds)
        for _ in range(12):
            await asyncio.sleep(0)

    async def recover(self) -> None:
        """Let a batcher that turns callers away after failures take them again."""
        if self.declared.recovers_within:
            await self.pause(self.declared.recovers_within)

    async def until_done(
        self, callers: Iterable[Caller] | None = None, within: float | None = None
    ) -> None:
        """Raise AssertionError unless callers, all of them if none are given, end.

        ``within``: so many seconds; None: as long as anything happens.
        """
        tasks = [caller.task for caller in (self.callers if callers is None else callers)]
        idle = PATIENCE * max(self.policy.max_wait, 1.0) if within is None else within
        if not self.declared.virtual:
            idle = max(idle, REAL_PATIENCE * SPEED)
        pending, before = set(tasks), None
        while pending and (before is None or (within is None and before != self.progress)):
            before = self.progress
            _, pending = await asyncio.wait(pending, timeout=idle + SLACK)
        for task in tasks:
            error = None if task in pending or task.cancelled() else task.exception()
            if isinstance(error, ProtocolError):
                raise error
        assert not pending, (
            f"{names_of(pending)} still wait {idle:g} s after the last event; {self.told()}"
        )

    @property
    def progress(self) -> tuple[int, int, int]:
        """It changes with every call that begins or ends, and every caller who has an outcome."""
        done = sum(caller.task.done() for caller in self.callers)
        return len(self.calls), len(self.open_calls), done

    async def until_served(
        self, callers: Iterable[Caller] | None = None, within: float | None = None
    ) -> None:
        """Raise AssertionError unless callers get their own results in time."""
        callers = list(self.callers if callers is None else callers)
        await self.until_done(callers, within)
        for caller in callers:
            self.check_result(caller)

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
        except BaseException as error:
            task = asyncio.current_task()
            if not isinstance(error, asyncio.CancelledError) or not (task and task.cancelling()):
                call.error = error  # its own, as nobody cancelled it
            raise
        finally:
            call.ended = self.loop.time()
            self._count_running(-1)

    def _count_running(self, change: int) -> None:
        self._num_running += change
        self.most_running = max(self.most_running, self._num_running)
        self._running.append((self.loop.time(), self._num_running))

    def last_call(self, caller: Caller) -> Call | None:
        """The call that decides what a caller gets: the last one with its item."""
        calls = [call for call in self.calls if any(item is caller.item for item in call.items)]
        return calls[-1] if calls else None

    # What has to hold

    def check_result(self, caller: Caller) -> None:
        assert caller.error is None, f"{caller.name} got {caller.error!r}; {self.told()}"
        result = caller.task.result()
        assert result == answer(caller.item), (
            f"{caller.name} submitted {named(caller.item)} and got {result!r}; {self.told()}"
        )

    def check_outcome(self, caller: Caller) -> None:
        """Raise AssertionError unless a caller has what its call gave, result or error."""
        call = self.last_call(caller)
        if call is None:
            assert self._may_turn_away(caller), (
                f"{caller.name} got {caller.error!r}, and {named(caller.item)} was never sent; "
                f"recovers_within is {self.declared.recovers_within:g} s; {self.told()}"
            )
        elif call.error is not None:
            check_told(caller, call.error)
        elif call.spoiled:
            assert caller.error is not None, (
                f"{caller.name} was given {caller.task.result()!r} of a call that did not return "
                f"one result for each item"
            )
            assert not caller.task.cancelled(), f"{caller.name} was cancelled"
        else:
            self.check_result(caller)

    def _may_turn_away(self, caller: Caller) -> bool:
        """Whether a call has failed so shortly before that the batcher may refuse to serve."""
        since = caller.submitted - self.declared.recovers_within
        lately = any(call.failed and (call.ended or 0.0) >= since for call in self.calls)
        return (
            bool(self.declared.recovers_within) and lately and isinstance(caller.error, Exception)
        )

    def check(self, *, window: bool = True) -> None:
        """Raise AssertionError unless calls fit the callers and the policy so far.

        ``window``: also that nobody waited longer than the window allows.
        """
        self.check_sizes()
        first: dict[int, Call] = {}
        failed: dict[int, bool] = {}  # the last call of an item, by the item's id
        for call in self.calls:
            for item in call.items:
                again = self.declared.retries_one_by_one and len(call.items) == 1
                assert id(item) not in first or (again and failed[id(item)]), (
                    f"{named(item)} was sent twice, and retries_one_by_one is "
                    f"{self.declared.retries_one_by_one}; {self.told()}"
                )
                first.setdefault(id(item), call)
                failed[id(item)] = call.failed
        strangers = first.keys() - {id(caller.item) for caller in self.callers}
        assert not strangers, f"the batch function got what nobody submitted; {self.told()}"
        if "order" in self.declared.capabilities:
            self._check_order([*first])
        if window:
            for caller in self.callers:
                begun = first.get(id(caller.item))
                self.check_wait(named(caller.item), caller, begun.started if begun else None)

    def check_sizes(self) -> None:
        most = self.policy.max_batch_size
        for call in self.calls:
            assert 0 < len(call.items) <= most, (
                f"a call of {len(call.items)} items, max_batch_size is {most}; {self.told()}"
            )
        assert self.most_running <= self._most_calls, (
            f"{self.most_running} calls ran at a time, max_concurrency is {self._most_calls} and "
            f"unbounded_calls is False; {self.told()}"
        )

    def _check_order(self, sent: list[int]) -> None:
        places = {id(caller.item): place for place, caller in enumerate(self.callers)}
        order = [places[item] for item in sent]
        assert order == sorted(order), f"items were not sent in the order they came; {self.told()}"

    def check_wait(self, what: str, caller: Caller, started: float | None) -> None:
        """Raise AssertionError if something of a caller's waited beyond the window for its call."""
        if started is None:
            started = self.loop.time() if caller.ended is None else caller.ended
        free = list(self._free_times(caller.submitted, started))
        window = self.policy.max_wait
        waited = started - caller.submitted
        if "age" in self.declared.capabilities:  # from its age on, every free slot is too late
            late = sum(
                end - max(begin, caller.submitted + window)
                for begin, end in free
                if end > caller.submitted + window
            )
            assert late <= SLACK, (
                f"{what} waited {waited:g} s, {late:g} s of them beyond the window of {window:g} s "
                f"while a call could have begun; {self.told()}"
            )
        longest = max((end - begin for begin, end in free), default=0.0)
        assert longest <= window + SLACK, (
            f"{what} waited {longest:g} s while a call could have begun, the window is "
            f"{window:g} s; {self.told()}"
        )

    def _free_times(self, begin: float, end: float) -> Iterable[tuple[float, float]]:
        """The stretches from begin to end in which fewer calls ran than may."""
        since: float | None = None
        for moment, running in [*self._running, (end, self._most_calls)]:
            moment = min(max(moment, begin), end)
            if running < self._most_calls:
                since = moment if since is None else since
            elif since is not None:
                yield since, moment
                since = None

    def told(self) -> str:
        return "calls so far: " + (told(self.calls) or "none")
