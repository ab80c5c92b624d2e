"""BatcherSuite: does every caller get exactly one outcome, in time, whatever happens around it?"""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any, ClassVar

from ..base import requires
from ..machines import run_machine
from .batcher_cancellation import BatcherCancellationSuite
from .batcher_failures import others
from .batcher_machine import BatcherMachine
from .batcher_trial import SLACK, Call, Item, Trial, after, answer, finish, held
from .batcher_windows import on_batcher
from .protocol import BatchPolicy, MakeBatcher


class BatcherSuite(BatcherCancellationSuite):
    """Properties of batchers on asyncio, on virtual time.

    Give a fixture ``make_batcher``: a `protocol.MakeBatcher`. The suite tries
    ``batch_sizes`` and ``max_wait``. ``wrong_results`` are the results among
    `batcher_failures.WRONG` that the batcher refuses.
    """

    topic = "batcher"
    steps: ClassVar[int] = 25

    @requires("stop")
    @on_batcher(each={"count": (0, 1, 3, 4, 8), "moment": (0.0, 0.5, 1.5)})
    async def test_after_a_stop_nobody_waits(self, trial: Trial, count: int, moment: float) -> None:
        """With an open batch, with a call that runs, with a line behind it: stop ends, and each
        caller has a result or an exception, then or as soon as its call has ended.

        Usual causes: the worker is cancelled, and neither what it took nor what waits is looked at.
        """
        trial.serve = after(self.max_wait)
        callers = trial.submit_all(count)
        await trial.pause(moment * self.max_wait)
        await trial.stop()
        await trial.until_done()
        for caller in callers:
            if caller.served:
                trial.check_result(caller)

    @requires("stop")
    @on_batcher()
    async def test_a_stopped_batcher_turns_callers_away(self, trial: Trial) -> None:
        """With an exception, at once; a second stop does nothing.

        Usual causes: a queue that takes items and has no worker any more.
        """
        await trial.until_served(trial.submit_all(2))
        await trial.stop()
        await trial.stop()
        late = trial.submit_all(2)
        await trial.until_done(late, within=0.0)
        for caller in late:
            assert isinstance(caller.error, Exception), (
                f"submit after stop: {caller.error or caller.task.result()!r}"
            )
        assert len(trial.calls) == 1, "a call was made after stop"

    @requires("stop")
    @on_batcher(3.0, each={"count": (1, 4)})
    async def test_callers_that_come_while_it_stops_do_not_wait(
        self, trial: Trial, count: int
    ) -> None:
        """They are turned away, or served.

        Usual causes: the line is emptied once, and what comes after that is forgotten.
        """
        trial.submit_all(count)
        await trial.pause(self.max_wait)
        stopping = asyncio.create_task(trial.stop(), name="stop")
        for _ in range(4):
            trial.submit()
            await asyncio.sleep(0)
        await trial.pause(0.5)
        trial.submit()
        await stopping
        await trial.until_done()

    @requires("drain")
    @on_batcher(1.0, each={"count": (1, 3, 4, 8), "moment": (0.0, 0.5, 1.5)})
    async def test_a_stop_that_drains_serves_all(
        self, trial: Trial, count: int, moment: float
    ) -> None:
        """When it returns, and without waiting for windows that nobody will come in.

        Usual causes: what is in the worker's hands is forgotten, a last batch that is not full.
        """
        trial.submit_all(count)
        await trial.pause(moment * self.max_wait)
        before = trial.loop.time()
        await trial.stop(drain=True)
        took = trial.loop.time() - before
        await trial.until_served(within=0.0)
        most = -(-count // 3) + self.max_wait + SLACK
        assert took <= most, f"stop took {took:g} s for {count} items in calls of 1 s"

    @requires("immediate")
    @on_batcher(each={"count": (1, 3, 4, 8), "moment": (0.0, 0.5, 1.5)})
    async def test_a_stop_at_once_serves_nothing_more(
        self, trial: Trial, count: int, moment: float
    ) -> None:
        """Each caller gets an exception, no further call is made, and no time passes.

        Usual causes: a call that runs on, a line that is served on the way out.
        """
        trial.serve = after(50.0 * self.max_wait)
        callers = trial.submit_all(count)
        await trial.pause(moment * self.max_wait)
        calls, before = len(trial.calls), trial.loop.time()
        await trial.stop(drain=False)
        await trial.until_done(within=0.0)
        assert trial.loop.time() == before, "a stop at once waited"
        for caller in callers:
            assert not caller.served, f"{caller.task.get_name()} was served all the same"
        await trial.pause(3.0 * self.max_wait)
        assert len(trial.calls) == calls, "a call was made after a stop at once"
        assert not trial.open_calls, "a call runs on after a stop at once"

    @requires("restart")
    @on_batcher(1.0)
    async def test_a_stopped_batcher_starts_again(self, trial: Trial) -> None:
        """As if nothing had been, several times.

        Usual causes: a flag that stays, a worker that is not made anew, items of the life before.
        """
        for count in (4, 0, 1, 3):
            callers = trial.submit_all(count)
            await trial.pause(0.5)
            await trial.stop()
            await trial.until_done(callers, within=0.0)
            await trial.batcher.start()
            before = len(trial.calls)
            later = trial.submit_all(4)
            await trial.until_served(later)
            sent = sum(trial.sizes[before:])
            assert sent == 4, f"{sent} items were sent for 4 after a restart"

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
                    assert len(trial.open_calls) == 1, "a full batch was not sent"
                    callers = trial.submit_all(bound + 3)
                    await trial.pause()
                    refused = [x for x in callers if x.task.done()]
                    assert refused == callers[bound:], (
                        f"{len(refused)} of {bound + 3} callers were turned away, {bound} may wait"
                    )
                    for caller in refused:
                        assert isinstance(caller.error, Exception), "served without a call"
                    taken = callers[:bound]
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

    @on_batcher()
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
        at_once = (1, 2) if "concurrency" in self.capabilities else (1,)
        for size in self.batch_sizes[-2:]:
            for max_concurrency in at_once:
                policy = BatchPolicy(size, self.max_wait, max_concurrency=max_concurrency)
                members = {
                    "make_batcher": staticmethod(make_batcher),
                    "policy": policy,
                    "capabilities": frozenset(self.capabilities),
                }
                run_machine(BatcherMachine, members, examples=self.examples, steps=self.steps)

    async def _undisturbed(self, trial: Trial, when: str) -> None:
        turns = trial.loop.turns  # type: ignore[attr-defined]  # a VirtualLoop
        await asyncio.sleep(100.0 * self.max_wait)
        # Its own waking, and whatever may be cleared away once.
        woken = trial.loop.turns - turns  # type: ignore[attr-defined]  # a VirtualLoop
        assert woken <= 4, f"{when}, the loop woke up {woken} times in 100 windows"
