"""BatcherSuite: does every caller get exactly one outcome, in time, whatever happens around it?"""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any, ClassVar

from ..base import requires
from ..machines import run_machine
from ..properties import noted
from .batcher_calls import Call, Item, answer, finish, held, others
from .batcher_machine import BatcherMachine
from .batcher_stop import BatcherStopSuite
from .batcher_trial import Trial
from .batcher_windows import on_batcher
from .protocol import BatchPolicy, MakeBatcher


class BatcherSuite(BatcherStopSuite):
    """Properties of batchers on asyncio, on virtual time.

    Give a fixture ``make_batcher``: a `protocol.MakeBatcher`. Whatever asks the event loop or
    Python's `time` gets virtual time. A batcher that waits in threads needs ``virtual = False``:
    the real clock, and those properties that no delay can break. Class attributes say how a batcher
    differs:

    | attribute | default | meaning |
    |---|---|---|
    | ``batch_sizes`` | (1, 2, 3, 5) | values of ``max_batch_size`` that are tried |
    | ``max_wait`` | 8.0 | the window, in seconds of virtual time |
    | ``virtual`` | True | False: on the real clock, a window of 8 s in 20 ms |
    | ``wrong_results`` | all | results of `batcher_calls.WRONG` that fail a call |
    | ``sends_at_once`` | False | a call begins with what is there as soon as one may begin |
    | ``unbounded_calls`` | False | calls begin however many run, whatever ``max_concurrency`` |
    | ``retries_one_by_one`` | False | a call that failed is repeated for each of its items alone |
    | ``recovers_within`` | 0.0 | seconds after a failed call in which callers may be turned away |
    | ``refuses_zero_deadline`` | False | a deadline of 0 is an error of its own, no TimeoutError |
    | ``examples``, ``steps`` | 40, 25 | drawn cases of a property; operations of each |
    """

    topic = "batcher"
    steps: ClassVar[int] = 25

    @requires("rejects")
    def test_a_full_line_turns_callers_away(self, make_batcher: MakeBatcher) -> None:
        """As many items wait as may, the next ones get an exception at once, and when there is
        room, callers are taken again, as often as this happens.

        Usual causes: a bound that is looked at after waiting, a count that knows no cancellation.
        """
        for bound in (3, 4, 7):

            async def scenario(trial: Trial, bound: int = bound) -> None:
                for _ in range(3):
                    running = trial.submit_all(3)
                    await trial.pause(self.max_wait)
                    assert len(trial.open_calls) == 1, (
                        f"{len(trial.open_calls)} calls run of a full batch; {trial.told()}"
                    )
                    room = bound - (3 - len(trial.open_calls[0].items))
                    callers = trial.submit_all(bound + 3)
                    await trial.pause()
                    refused = [x for x in callers if x.task.done()]
                    assert refused == callers[room:], (
                        f"{len(refused)} of {bound + 3} callers were turned away, {bound} may wait "
                        f"and {bound - room} did"
                    )
                    for caller in refused:
                        assert isinstance(caller.error, Exception), (
                            f"{caller.name} was served without a call"
                        )
                    taken = callers[:room]
                    if "withdraw" in self.capabilities:
                        await self._cancelled(trial, taken[:2])
                        taken = [*taken[2:], trial.submit()]
                        await trial.pause()
                        assert not taken[-1].task.done(), "a cancelled item's place is not free"
                    await trial.finish_all()
                    await trial.until_served([*running, *taken])

            self.run(make_batcher, scenario, held, max_queue_size=bound, reject_when_full=True)

    @requires("back-pressure")
    def test_a_full_line_lets_callers_wait_outside(self, make_batcher: MakeBatcher) -> None:
        """Nobody is turned away or forgotten, also where some give up, in the line or outside.

        Usual causes: a place that is lost with a caller who gave up while it was handed over.
        """
        for bound in (1, 3, 4):
            for gone in ([], [0], [bound], [bound + 1, bound + 2], list(range(bound + 5))):

                async def scenario(
                    trial: Trial, bound: int = bound, gone: list[int] = gone
                ) -> None:
                    trial.submit_all(1)
                    await trial.pause(self.max_wait)
                    callers = trial.submit_all(bound + 6)
                    await trial.pause()
                    await self._cancelled(trial, [callers[place] for place in gone])
                    await trial.pause()
                    for turn in range(40):
                        for call in trial.open_calls:
                            finish(call)
                        if turn == 1 and not callers[-1].task.done():
                            callers[-1].task.cancel()  # as a place may be given to it
                        await trial.pause(self.max_wait)
                    left = [x for x in others(callers, gone) if not x.task.cancelled()]
                    await trial.until_served(left, within=0.0)
                    later = trial.submit_all(bound + 1)
                    await trial.finish_all()
                    await trial.until_served(later)

                self.run(make_batcher, scenario, held, window=False, max_queue_size=bound)

    @requires("idle")
    @on_batcher(held)
    async def test_nothing_wakes_the_loop_while_nothing_can_be_done(self, trial: Trial) -> None:
        """Before the first item, after the last, and while a call runs for long.

        Usual causes: a loop that looks whether something came, a timeout to look at a flag.
        """
        await self._undisturbed(trial, "before the first item")
        first = trial.submit_all(4)
        await trial.pause(2.0 * self.max_wait)
        await self._undisturbed(trial, "while a call runs and an item waits for it")
        await trial.finish_all()
        await trial.until_served(first)
        await self._undisturbed(trial, "after the last item")
        gone = trial.submit_all(1)
        await trial.pause(0.5 * self.max_wait)
        await self._cancelled(trial, gone)
        await trial.pause(2.0 * self.max_wait)
        await trial.finish_all()
        await self._undisturbed(trial, "after a caller gave up")

    @on_batcher(timeless=True)
    async def test_many_rounds_leave_nothing_behind(self, trial: Trial) -> None:
        """Results, errors and callers that gave up: neither their items nor tasks pile up.

        Usual causes: futures in a dict that nobody takes out, a task for each item that is never
        awaited, a list of timers.
        """
        size, rounds = 3, 30

        async def serve(call: Call) -> Any:
            call.items, items = [], call.items
            await asyncio.sleep(1.0)
            if call.index % 5 == 4:
                raise ValueError("one of its inputs")
            return [answer(item) for item in items]

        trial.serve = serve
        alive: weakref.WeakSet[Item] = weakref.WeakSet()
        for _ in range(rounds):
            for _ in range(2 * size + 1):
                trial.submit()
            alive.update(caller.item for caller in trial.callers)
            await trial.pause(1.5)  # in a call, or in the line
            for caller in trial.callers[::4]:
                caller.task.cancel()
            await trial.until_done()
            trial.calls.clear()
            trial.callers.clear()
            await trial.pause(3.0 * self.max_wait)
        tasks = len(asyncio.all_tasks())
        gc.collect()
        assert len(alive) <= 2 * size, (
            f"{len(alive)} of {rounds * (2 * size + 1)} items are still held when all is done"
        )
        assert tasks <= 2 + size, f"{tasks} tasks run when nothing is left to do"

    def test_any_interleaving_gives_each_caller_one_outcome(
        self, make_batcher: MakeBatcher
    ) -> None:
        """Callers come and give up, calls end and fail, time passes, in any order: as a plain queue
        would, it serves each within the window.

        Usual causes: all of the above, together.
        """
        self.need_virtual_time()
        at_once = (1, 2) if "concurrency" in self.capabilities else (1,)
        for size in self.batch_sizes[-2:]:
            for max_concurrency in at_once:
                policy = BatchPolicy(size, self.max_wait, max_concurrency=max_concurrency)
                members = {
                    "make_batcher": staticmethod(make_batcher),
                    "policy": policy,
                    "declared": self.declared,
                    "blocked": self._blocked,
                }
                with noted(f"on a batcher of {policy}"):
                    run_machine(BatcherMachine, members, examples=self.examples, steps=self.steps)

    async def _undisturbed(self, trial: Trial, when: str) -> None:
        turns = trial.loop.turns  # type: ignore[attr-defined]  # a VirtualLoop
        await asyncio.sleep(100.0 * self.max_wait)
        # Its own waking, and whatever may be cleared away once.
        woken = trial.loop.turns - turns  # type: ignore[attr-defined]  # a VirtualLoop
        assert woken <= 4, f"{when}, the loop woke up {woken} times in 100 windows"
