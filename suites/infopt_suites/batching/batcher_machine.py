"""Random operations on a batcher, which is compared with a plain queue after each."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ..properties import ending_search
from .batcher_calls import Call, Caller, finish, held
from .batcher_trial import Declared, Trial
from .clock import VirtualClock
from .protocol import BatchPolicy, MakeBatcher

Value = TypeVar("Value")
MOST = 12  # callers at a time
IDLE = 3  # windows in which nothing happens, until callers count as forgotten


class BatcherMachine(RuleBasedStateMachine):
    """Callers that come and give up; calls that end; time that passes; stops."""

    make_batcher: ClassVar[MakeBatcher]
    policy: ClassVar[BatchPolicy]
    declared: ClassVar[Declared]
    blocked: ClassVar[list[str]]

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock(self.blocked)
        self.stopped: set[Caller] = set()  # who waited at a stop
        self.trial = self._run(self._started())

    def _run(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        with ending_search():
            return self.clock.run(coroutine)

    async def _started(self) -> Trial:
        made = type(self)
        trial = Trial(made.make_batcher, self.policy, held, self.declared)
        await trial.start()
        return trial

    @property
    def unserved(self) -> list[Caller]:
        return [caller for caller in self.trial.callers if not caller.task.done()]

    # Nothing happens without callers, so that this is in every sequence.
    @initialize(count=st.sampled_from([1, 1, 2, 4]))
    def begin(self, count: int) -> None:
        self.submit(count, 0.0)

    @precondition(lambda self: len(self.unserved) < MOST)
    @rule(count=st.sampled_from([1, 1, 2, 4]), windows=st.sampled_from([0.0, 0.25, 0.5, 0.75]))
    def submit(self, count: int, windows: float) -> None:
        async def submit() -> None:
            await self.trial.pause(windows * self.policy.max_wait)
            self.trial.submit_all(count)
            await self.trial.pause()

        self._run(submit())

    @rule(windows=st.sampled_from([0.5, 1.25]))
    def wait(self, windows: float) -> None:
        self._run(self.trial.pause(windows * self.policy.max_wait))

    @precondition(lambda self: self.unserved)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        async def cancel() -> None:
            caller = self._one_of(data, self.unserved)
            caller.task.cancel()
            await self.trial.until_done([caller], within=0.0)
            await self.trial.pause()

        self._run(cancel())

    @precondition(lambda self: self.trial.open_calls)
    @rule(data=st.data(), fails=st.booleans())
    def end(self, data: st.DataObject, fails: bool) -> None:
        self._end(self._one_of(data, self.trial.open_calls), fails)

    @precondition(lambda self: "restart" in self.declared.capabilities)
    @rule(windows=st.sampled_from([0.0, 0.5]))
    def stop_and_start(self, windows: float) -> None:
        async def stop_and_start() -> None:
            await self.trial.pause(windows * self.policy.max_wait)
            self.stopped.update(self.unserved)
            stopping = asyncio.create_task(self.trial.stop(), name="stop")
            for _ in range(4 * MOST):
                for call in self.trial.open_calls:
                    finish(call)
                await self.trial.pause()
                if stopping.done():
                    break
                await self.trial.pause(0.25 * self.policy.max_wait)
            assert stopping.done(), "stop does not end, though all calls have"
            await self.trial.until_done()
            await self.trial.start()

        self._run(stop_and_start())

    @invariant()
    def calls_fit_the_policy(self) -> None:
        self.trial.check()

    @invariant()
    def outcomes_are_right(self) -> None:
        for caller in self.trial.callers:
            if not caller.task.done() or caller.task.cancelled():
                continue
            if caller not in self.stopped or caller.served:
                self.trial.check_outcome(caller)

    def teardown(self) -> None:
        """Let all calls end: then nobody waits."""
        try:
            idle = 0
            while self.unserved and idle < IDLE:
                before = self.trial.progress
                for call in self.trial.open_calls:
                    self._end(call, fails=False)
                self.wait(1.0)
                idle = 0 if self.trial.progress != before else idle + 1
            self._run(self.trial.until_done(within=0.0))
            self.outcomes_are_right()
            self.clock.check()
        finally:
            self.clock.close()

    def _end(self, call: Call, fails: bool) -> None:
        async def end() -> None:
            finish(call, ValueError(f"call {call.index}") if fails else None)
            await self.trial.pause()
            assert call.ended is not None, "a call whose function has returned is not awaited"

        self._run(end())

    def _one_of(self, data: st.DataObject, choices: list[Any]) -> Any:
        return choices[data.draw(st.integers(0, len(choices) - 1), label="which")]
