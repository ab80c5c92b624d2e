"""Random operations on a scheduler, in any order, checked after each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

if TYPE_CHECKING:
    from .scheduler_trial import Trial

MOST = 6  # requests at a time: more than run, so that some wait


class SchedulerMachine(RuleBasedStateMachine):
    """Requests that come, are computed, preempted, aborted at any point, and end."""

    make_trial: ClassVar[Callable[[], Trial]]
    longest: ClassVar[int]  # tokens of a request

    def __init__(self) -> None:
        super().__init__()
        self.trial = type(self).make_trial()

    @initialize(count=st.integers(1, 4), data=st.data())
    def begin(self, count: int, data: st.DataObject) -> None:
        for _ in range(count):
            self.add(data)

    @precondition(lambda self: len(self.trial.live) < MOST)
    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        prompt = data.draw(st.integers(1, self.longest - 1), label="prompt")
        new = data.draw(st.integers(1, self.longest - prompt), label="new")
        self.trial.add(prompt, new)

    @rule(count=st.integers(1, 4))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.trial.step()

    @precondition(lambda self: self.trial.live)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.trial.abort(self._request(data))

    @precondition(lambda self: self.trial.live)
    @rule(data=st.data())
    def abort_in_flight(self, data: st.DataObject) -> None:
        self.trial.step(aborted=[self._request(data)])

    def teardown(self) -> None:
        self.trial.drain()

    def _request(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.trial.live)), label="request")
