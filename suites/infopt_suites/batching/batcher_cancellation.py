"""What every batcher promises when a caller gives up: nobody else notices."""

from __future__ import annotations

import asyncio
from itertools import product
from typing import ClassVar

from ..base import requires
from ..properties import noted
from .batcher_calls import Caller, Item, after, finish, held, others
from .batcher_failures import BatcherFailureSuite
from .batcher_trial import SLACK, Trial
from .batcher_windows import on_batcher, on_each_size
from .protocol import MakeBatcher


class BatcherCancellationSuite(BatcherFailureSuite):
    """The part of `BatcherSuite` about callers that are cancelled, and deadlines."""

    topic = "batcher"
    refuses_zero_deadline: ClassVar[bool] = False

    @on_each_size(3.0)
    async def test_a_caller_cancelled_while_it_waits_leaves_the_others_alone(
        self, trial: Trial
    ) -> None:
        """At each place in the line, and all of them: the others are served, in time.

        Usual causes: set_result on a cancelled future, which ends the worker; a caller whose task
        sends the batch for the others.
        """
        size = trial.policy.max_batch_size
        for gone in [*([place] for place in range(size + 2)), list(range(size + 2))]:
            first = trial.submit_all(size)  # takes the slot
            await trial.pause(1.0)
            callers = trial.submit_all(size + 2)
            await trial.pause(1.0)
            await self._cancelled(trial, [callers[place] for place in gone])
            await trial.until_served(first)
            await trial.until_served(others(callers, gone))
            await trial.until_served(trial.submit_all(size + 1))

    @on_batcher(held, 5, each={"gone": ([0], [1], [2], [0, 1], [0, 1, 2])})
    async def test_a_caller_cancelled_in_an_open_batch_leaves_the_others_alone(
        self, trial: Trial, gone: list[int]
    ) -> None:
        """While the window is open and a call could begin; the oldest one, too.

        Usual causes: the oldest caller's task keeps the window; a flush that is cancelled with it.
        """
        for later in (0, 1, 0, 1):
            callers = trial.submit_all(3)
            await trial.pause(self.max_wait / 2)
            await self._cancelled(trial, [callers[place] for place in gone])
            callers += trial.submit_all(later)
            await trial.pause(self.max_wait)
            await trial.finish_all()
            await trial.until_served(others(callers, gone), within=0.0)

    @on_batcher(held, each={"gone": ([0], [1], [2], [0, 2], [0, 1, 2]), "fails": (False, True)})
    async def test_a_caller_cancelled_while_it_is_served_leaves_the_others_alone(
        self, trial: Trial, gone: list[int], fails: bool
    ) -> None:
        """The call goes on for its neighbours, and its end does no harm where nobody is left.

        Usual causes: set_result or set_exception on a cancelled future, a call that is cancelled
        with one of its callers.
        """
        callers = await trial.submit_into_a_call(3)
        await self._cancelled(trial, [callers[place] for place in gone])
        call = trial.calls[-1]
        assert call.ended is None or len(gone) == 3, "a call was cancelled with one of its callers"
        finish(call, ValueError("one of its inputs") if fails else None)
        await trial.finish_all()  # those that follow, if it is repeated for each item
        left = others(callers, gone)
        await trial.until_done(left)
        for caller in left:
            trial.check_outcome(caller)
        await self._served_later(trial)

    @on_batcher(held, each={"gone": ([0], [1], [2], [0, 2], [0, 1, 2]), "again": (False, True)})
    async def test_a_caller_cancelled_while_its_item_is_tried_again_leaves_the_others_alone(
        self, trial: Trial, gone: list[int], again: bool
    ) -> None:
        """With ``retries_one_by_one``: the others are tried too, whether its own try works or not.
        Without it, nobody waits when the call has failed.

        Usual causes: set_result on a cancelled future, which ends the tries of all others.
        """
        callers = await trial.submit_into_a_call(3)
        finish(trial.calls[-1], ValueError("one of its inputs"))
        await trial.pause()
        for _ in callers:  # one call for each, if it is tried again
            for call in trial.open_calls:
                for place in gone:
                    if callers[place].item in call.items:
                        await self._cancelled(trial, [callers[place]])
                finish(call, ValueError("alone as well") if again else None)
            await trial.pause(0.5)
        left = others(callers, gone)
        await trial.until_done(left)
        for caller in left:
            trial.check_outcome(caller)
        await self._served_later(trial)

    @on_batcher(held, each={"turns": range(6), "gone": range(3)})
    async def test_a_caller_cancelled_as_its_result_comes_leaves_the_others_alone(
        self, trial: Trial, turns: int, gone: int
    ) -> None:
        """In any of the turns of the loop between the end of the call and the caller's waking.

        Usual causes: a look at the future and its set_result with an await between them.
        """
        callers = await trial.submit_into_a_call(3)
        finish(trial.calls[-1])
        for _ in range(turns):
            await asyncio.sleep(0)
        callers[gone].task.cancel()
        await trial.until_served(others(callers, [gone]))
        await self._served_later(trial)

    def test_a_call_whose_callers_are_gone_keeps_its_slot(self, make_batcher: MakeBatcher) -> None:
        """Until it ends: nobody's call begins beside it, though nobody waits for it any more. They
        leave together, one by one, or at their deadlines.

        Usual causes: a slot that is given back by the caller who leaves, as by ``async with``
        around the wait; a timeout around a call that runs on in a thread or on a device.
        """
        ways = ("together", "one by one") + ("deadlines",) * ("deadlines" in self.capabilities)
        slots = (1, 2) if "concurrency" in self.capabilities else (1,)
        for way, max_concurrency in product(ways, slots):

            async def scenario(trial: Trial, way: str = way, slots: int = max_concurrency) -> None:
                seconds = {"deadline": 1.5 * self.max_wait} if way == "deadlines" else {}
                gone = [trial.submit(**seconds) for _ in range(slots * trial.policy.max_batch_size)]
                await trial.pause(self.max_wait)
                for caller in [] if seconds else gone:
                    caller.task.cancel()
                    await trial.pause(0.125 if way == "one by one" else 0.0)
                await trial.until_done(gone, within=self.max_wait)
                left = trial.submit_all(2 * trial.policy.max_batch_size)
                await trial.pause(2.0 * self.max_wait)
                trial.check_sizes()
                await trial.finish_all()
                await trial.until_served(left, within=0.0)

            with noted(f"callers leave: {way}"):
                self.run(make_batcher, scenario, held, max_concurrency=max_concurrency)

    @on_batcher()
    async def test_callers_that_give_up_in_time_are_told_so(self, trial: Trial) -> None:
        """asyncio.timeout around submit ends when it says, wherever the item is.

        Usual causes: a wait that is shielded, a CancelledError that is swallowed.
        """
        trial.serve = after(3.0 * self.max_wait)
        for windows in (0.5, 1.5, 0.5):  # in an open batch, in a call, in the line
            item, seconds = Item(len(trial.callers)), windows * self.max_wait
            impatient = trial.add(item, asyncio.wait_for(trial.ask(item), seconds))
            await trial.until_done([impatient], within=seconds)
            assert isinstance(impatient.error, TimeoutError), (
                f"a timeout of {seconds:g} s around submit ended with {impatient.error!r}"
            )
        trial.serve = after(0.0)
        await trial.until_served(trial.submit_all(3))

    @requires("withdraw")
    @on_batcher(held, each={"gone": ([0], [1], [2, 3], [0, 1, 2, 3])})
    async def test_an_item_whose_caller_is_gone_is_not_sent(
        self, trial: Trial, gone: list[int]
    ) -> None:
        """Cancelled in the line or in an open batch, it takes nobody's place.

        Usual causes: the future is forgotten, the item is not; a place that is counted as taken.
        """
        await trial.submit_into_a_call(3)  # takes the slot
        callers = trial.submit_all(4)
        await trial.pause(1.0)
        await self._cancelled(trial, [callers[place] for place in gone])
        finish(trial.calls[-1])
        await trial.pause(1.0)
        left = others(callers, gone)
        left += trial.submit_all(3 - len(left))
        await trial.pause(self.max_wait)
        if {"full", "window"} <= {*self.capabilities}:
            assert trial.sizes == [3, 3], f"3 items with callers in calls of {trial.sizes}"
        await trial.finish_all()
        await trial.until_served(left)
        calls = len(trial.calls)
        if "window" in self.capabilities:
            alone = trial.submit_all(2)
            await trial.pause(0.5 * self.max_wait)
            await self._cancelled(trial, alone)
            await trial.finish_all()
        sent = {id(item) for call in trial.calls for item in call.items}
        for place in gone:
            assert id(callers[place].item) not in sent, "an item without a caller was sent"
        assert len(trial.calls) == calls, "a call was made for nobody"

    @requires("deadlines")
    @on_batcher(held, 5)
    async def test_deadlines_are_kept(self, trial: Trial) -> None:
        """TimeoutError at the deadline, in the line as in a call; an item that was not sent by then
        never is. A result that comes before is a result. With ``refuses_zero_deadline``, a deadline
        of 0 is an error at once.

        Usual causes: a deadline that is looked at when a batch is made, and never else.
        """
        window = self.max_wait
        await trial.submit_into_a_call(1)  # takes the slot
        early = trial.submit(deadline=0.5 * window)
        never = trial.submit(deadline=0.0)
        served = trial.submit(deadline=4.0 * window)
        await trial.until_done([early, never], within=0.5 * window)
        finish(trial.calls[-1])
        await trial.pause(window)
        for call in trial.open_calls:
            finish(call)
        await trial.until_served([served], within=0.0)
        late = trial.submit(deadline=1.25 * window)
        await trial.until_done([late], within=1.25 * window)
        for caller in (early, late) if self.refuses_zero_deadline else (early, never, late):
            assert isinstance(caller.error, TimeoutError), (
                f"{caller.name} got {caller.error!r} at its deadline, and refuses_zero_deadline is "
                f"{self.refuses_zero_deadline}"
            )
        assert isinstance(never.error, Exception), f"{never.name} was served within 0 seconds"
        self._check_sent_in_time(trial, {early: 0.5 * window, never: 0.0})
        await trial.finish_all()
        patient = trial.submit(deadline=50.0 * window)
        await trial.pause(window)
        finish(trial.calls[-1])
        await trial.until_served([patient], within=0.0)

    @staticmethod
    def _check_sent_in_time(trial: Trial, deadlines: dict[Caller, float]) -> None:
        for caller, deadline in deadlines.items():
            call = trial.last_call(caller)
            assert call is None or call.started <= caller.submitted + deadline + SLACK, (
                f"{caller.item} was sent {call.started - caller.submitted:g} s after it came, its "
                f"deadline was {deadline:g} s"
            )

    async def _served_later(self, trial: Trial) -> None:
        await trial.recover()
        later = trial.submit_all(3)
        await trial.pause(self.max_wait)
        await trial.finish_all()
        await trial.until_served(later)
