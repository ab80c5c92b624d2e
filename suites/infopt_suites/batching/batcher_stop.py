"""What a batcher promises when it is stopped: everybody has an outcome, then or soon."""

from __future__ import annotations

import asyncio

from ..base import requires
from .batcher_calls import after, finish, held, others
from .batcher_cancellation import BatcherCancellationSuite
from .batcher_trial import SLACK, Trial
from .batcher_windows import on_batcher


class BatcherStopSuite(BatcherCancellationSuite):
    """The part of `BatcherSuite` about its stop, and its next start."""

    topic = "batcher"

    @requires("stop")
    @on_batcher(timeless=True, each={"count": (0, 1, 3, 4, 8), "moment": (0.0, 0.5, 1.5)})
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
    @on_batcher(timeless=True)
    async def test_a_stopped_batcher_turns_callers_away(self, trial: Trial) -> None:
        """With an exception, at once; a second stop does nothing.

        Usual causes: a queue that takes items and has no worker any more.
        """
        await trial.until_served(trial.submit_all(2))
        await trial.stop()
        await trial.stop()
        calls, late = len(trial.calls), trial.submit_all(2)
        await trial.until_done(late, within=0.0)
        for caller in late:
            assert isinstance(caller.error, Exception), (
                f"submit after stop: {caller.error or caller.task.result()!r}"
            )
        assert len(trial.calls) == calls, "a call was made after stop"

    @requires("stop")
    @on_batcher(3.0, timeless=True, each={"count": (1, 4)})
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
        most = self.most_calls(count, 3) + self.max_wait + SLACK
        assert took <= most, f"stop took {took:g} s for {count} items in calls of 1 s"

    @requires("drain")
    @on_batcher(
        held, each={"turns": (-1, *range(6)), "gone": ([0], [2], [0, 1, 2]), "more": (0, 1)}
    )
    async def test_a_drain_ends_after_a_caller_left_as_its_result_came(
        self, trial: Trial, turns: int, gone: list[int], more: int
    ) -> None:
        """In any of the turns of the loop between the end of the call and the caller's waking, or
        just before; with others still in the line, and without.

        Usual causes: a count of callers that who leaves takes down twice, or never; a wait for the
        futures of all callers, which raises what theirs was.
        """
        callers = await trial.submit_into_a_call(3)
        callers += trial.submit_all(more)
        await trial.pause()
        for call in trial.open_calls if turns >= 0 else []:
            finish(call)
        for _ in range(turns):
            await asyncio.sleep(0)
        for place in gone:
            callers[place].task.cancel()
        stopping = asyncio.create_task(trial.stop(drain=True), name="stop")
        for _ in range(4):
            for call in trial.open_calls:
                finish(call)
            await trial.pause(self.max_wait)
        assert stopping.done(), (
            f"a stop that drains does not end, though callers are done and no call runs; "
            f"{trial.told()}"
        )
        assert not stopping.cancelled(), "stop raised CancelledError, and nobody had cancelled it"
        assert stopping.exception() is None, f"stop raised {stopping.exception()!r}"
        await trial.until_done(within=0.0)
        await trial.until_served(others(callers, gone), within=0.0)

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
    @on_batcher(1.0, timeless=True)
    async def test_a_stopped_batcher_starts_again(self, trial: Trial) -> None:
        """As if nothing had been, several times.

        Usual causes: a flag that stays, a worker that is not made anew, items of the life before.
        """
        for count in (4, 0, 1, 3):
            callers = trial.submit_all(count)
            await trial.pause(0.5)
            await trial.stop()
            await trial.until_done(callers, within=0.0)
            await trial.start()
            before = len(trial.calls)
            later = trial.submit_all(4)
            await trial.until_served(later)
            sent = sum(trial.sizes[before:])
            assert sent == 4, f"{sent} items were sent for 4 after a restart"
