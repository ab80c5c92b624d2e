"""What every batcher promises while nothing goes wrong: sizes, windows, and whose result it is."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from hypothesis import strategies as st

from ..base import requires
from ..properties import for_all, tried
from .batcher_calls import Call, after, finish, held
from .batcher_trial import SLACK, Trial
from .protocol import MakeBatcher
from .trial_suite import TrialSuite

on_batcher = tried("make_batcher", by="run")  # a property that is a scenario
on_each_size = tried("make_batcher", by="run_each_size")
# Pairs of seconds: since the item before, and that its call takes.
ARRIVALS = {
    "many at once": [(0, 3)] * 11,
    "a burst behind a slow call": [(0, 20), (9, 1), *[(0, 1)] * 8],
    "calls that end in another order": [(0, 20), (0, 3), (0, 1), (1, 1), (0, 0), (5, 1), (0, 1)],
}
EDGES = {"batches": (0, 1, 2, 3), "more": (-1, 0, 1)}  # of a number of items


class BatcherWindowSuite(TrialSuite):
    """The part of `BatcherSuite` about sizes and windows."""

    topic = "batcher"
    fixture = "make_batcher"
    fixture_returns = "a callable: batch function, BatchPolicy -> batcher"
    offers = {  # noqa: RUF012  # read only
        "age": "max_wait is the item's age, also when calls ran meanwhile",
        "window": "items that come within max_wait of the oldest share its call",
        "open": "a batch takes further items until it is full or a call can begin",
        "full": "a full batch is sent at once, if a call can begin",
        "no-window": "max_wait = 0 is allowed: no time passes, and items of one turn share calls",
        "order": "items are sent in the order they came",
        "concurrency": "max_concurrency calls run at a time",
        "item-errors": "an exception among the results fails its item alone",
        "withdraw": "an item whose caller was cancelled before it was sent is not sent",
        "deadlines": "submit(item, deadline=seconds) raises TimeoutError in time",
        "stop": "stop() leaves no caller waiting, and later ones are turned away",
        "drain": "stop(drain=True) serves all that was submitted",
        "immediate": "stop(drain=False) serves nothing more",
        "restart": "start() after stop() serves again",
        "rejects": "reject_when_full turns callers away while max_queue_size items wait",
        "back-pressure": "max_queue_size without reject_when_full lets callers wait outside",
        "idle": "nothing wakes the event loop while nothing can be done",
    }
    examples: ClassVar[int] = 40

    def test_every_caller_gets_its_own_result(self, make_batcher: MakeBatcher) -> None:
        """Under arrivals and durations of any kind, once, in batches of a legal size and in time.

        Usual causes: results joined in the order in which calls end, inputs sorted by length and
        never sorted back, results that overwrite those of the batch before.
        """
        concurrent = "concurrency" in self.capabilities

        def holds(case: tuple[int, int, list[tuple[int, int]]]) -> None:
            size, at_once, arrivals = case

            async def serve(call: Call) -> object:
                return await after(durations[call.index % len(durations)])(call)

            async def scenario(trial: Trial) -> None:
                for gap, _ in arrivals:
                    if gap:
                        await trial.pause(gap)
                    trial.submit()
                await trial.until_served()

            durations = [duration for _, duration in arrivals]
            self.run(make_batcher, scenario, serve, size, timeless=True, max_concurrency=at_once)

        arrival = st.tuples(st.sampled_from([0, 0, 1, 5, 9]), st.sampled_from([0, 1, 3, 20]))
        cases = st.tuples(
            st.sampled_from(self.batch_sizes),
            st.integers(1, 3) if concurrent else st.just(1),
            st.lists(arrival, min_size=1, max_size=14),
        )
        traps = [
            (name, (size, at_once, arrivals))
            for name, arrivals in ARRIVALS.items()
            for size in self.batch_sizes
            for at_once in ((1, 2) if concurrent else (1,))
        ]
        for_all(holds, cases, traps=traps, examples=self.examples)

    @on_each_size(timeless=True, each={**EDGES, "seconds": (0.0, 3.0)})
    async def test_leftovers_are_served_without_later_arrivals(
        self, trial: Trial, batches: int, more: int, seconds: float
    ) -> None:
        """n items at once and then nobody: all are served, also those that fill no batch.

        Usual causes: an event that is cleared while items remain, a flush when full and never
        else, a last batch that waits for an end of the input.
        """
        trial.serve = after(seconds)
        trial.submit_all(batches * trial.policy.max_batch_size + more)
        await trial.until_served()
        await trial.pause(30.0)
        trial.submit_all(1)  # and whoever comes after a long pause
        await trial.until_served()

    @on_each_size(timeless=True, each={"full": (False, True), "turns": range(8)})
    async def test_whoever_comes_while_a_batch_is_sent_is_served(
        self, trial: Trial, full: bool, turns: int
    ) -> None:
        """In any turn of the loop, and nobody comes after.

        Usual causes: an event or a list that is made anew after a look at it, an event that is
        cleared too late.
        """
        size = trial.policy.max_batch_size
        first = size if full else 1
        trial.submit_all(first)
        if first < size:  # sent by the end of the window
            await asyncio.sleep(self.max_wait)
        for _ in range(turns):
            await asyncio.sleep(0)
        trial.submit()
        await trial.until_served()

    @on_batcher(size=99, each={"gap": (0.9, 0.5), "seconds": (0.0, 1.0)})
    async def test_steady_arrivals_do_not_prolong_the_window(
        self, trial: Trial, gap: float, seconds: float
    ) -> None:
        """One item after the other, each shortly before the window since the last one ends: nobody
        waits longer than the window.

        Usual causes: a window that begins anew with each item, a debounce.
        """
        trial.serve = after(seconds)
        for _ in range(9):
            trial.submit()
            await trial.pause(gap * self.max_wait)
        await trial.until_served()

    @on_each_size(each={"moment": (0.5, 0.9, 0.99)})
    async def test_a_late_second_item_does_not_prolong_the_window(
        self, trial: Trial, moment: float
    ) -> None:
        """It comes shortly before the first one's window ends, and nobody after it.

        Usual causes: the time that is left is computed, and the whole window waited for.
        """
        trial.submit()
        await trial.pause(moment * self.max_wait)
        trial.submit()
        await trial.until_served()

    @on_each_size(1.0)
    async def test_items_submitted_together_share_calls(self, trial: Trial) -> None:
        """k items in one turn of the loop take ceil(k / max_batch_size) calls; one more with
        ``sends_at_once``, as the first goes alone.

        Usual causes: whatever is there is sent without waiting, a limit on what is in flight that
        is below a batch, queues of their own for each caller.
        """
        size = trial.policy.max_batch_size
        for count in range(1, 3 * size + 2):
            for _ in range(2):
                before = len(trial.calls)
                await trial.until_served(trial.submit_all(count))
                calls, needed = trial.sizes[before:], self.most_calls(count, size)
                assert len(calls) <= needed, (
                    f"{count} items in calls of {calls}, {needed} of {size} would do, and "
                    f"sends_at_once is {self.sends_at_once}"
                )

    @requires("open")
    @on_each_size()
    async def test_items_that_wait_for_a_slot_share_calls(self, trial: Trial) -> None:
        """What came one by one while a call ran fits into ceil(k / max_batch_size) further ones.

        Usual causes: a batch that is closed when its window ends, and not when it can be sent.
        """
        size = trial.policy.max_batch_size
        trial.serve = after(8.0 * self.max_wait)
        trial.submit()
        await trial.pause(1.5 * self.max_wait)
        for _ in range(2 * size + 1):
            trial.submit()
            await trial.pause(0.375 * self.max_wait)
        assert trial.sizes == [1], f"calls of {trial.sizes} while the first one ran"
        await trial.until_served()
        assert len(trial.calls) == 4, (
            f"calls of {trial.sizes}: after the first one, {2 * size + 1} items waited"
        )

    @requires("window")
    @on_batcher(0.0, 7)
    async def test_items_within_the_window_share_a_call(self, trial: Trial) -> None:
        """The batch stays open until its oldest item has waited as long as it may.

        Usual causes: a batch is sent when the loop has a moment, windows of a fixed grid, the timer
        of a batch that was sent long ago.
        """
        for full_before in (False, True, False):
            if full_before:  # whose window would have ended in the midst of the next ones
                await trial.until_served(trial.submit_all(7))
                await trial.pause(0.3 * self.max_wait)
            before = len(trial.calls)
            for _ in range(4):
                trial.submit()
                await trial.pause(0.2 * self.max_wait)
            trial.submit()
            await trial.until_served()
            assert trial.sizes[before:] == [5], (
                f"5 items within 0.8 windows in calls of {trial.sizes[before:]}"
            )
            await trial.pause(0.7 * self.max_wait)

    @requires("full")
    @on_each_size(0.0)
    async def test_a_full_batch_is_sent_at_once(self, trial: Trial) -> None:
        """Nobody waits for a window whose batch is full.

        Usual causes: only the timer sends, the size is looked at before the item is added.
        """
        size = trial.policy.max_batch_size
        for batches in (1, 2):
            trial.submit_all(size * batches)
            await trial.pause()
            await trial.until_served(within=0.0)
        for _ in range(size):  # the last one fills it
            trial.submit()
            await trial.pause(self.max_wait / (2 * size))
        await trial.until_served(within=0.0)

    @requires("no-window")
    @on_each_size(0.0, max_wait=0.0)
    async def test_without_a_window_nobody_waits(self, trial: Trial) -> None:
        """max_wait = 0: what came in one turn of the loop is sent together, at once.

        Usual causes: 0 read as "not given", a timer of 0 seconds for each item.
        """
        size = trial.policy.max_batch_size
        for count in (1, size, size + 1):
            before = len(trial.calls)
            trial.submit_all(count)
            await trial.until_served(within=0.0)
            assert len(trial.calls) - before <= self.most_calls(count, size), (
                f"{count} items of one turn in calls of {trial.sizes[before:]}"
            )

    @requires("concurrency")
    @on_each_size(max_concurrency=3, each={"durations": ((9.0, 5.0, 1.0), (5.0, 9.0, 1.0))})
    async def test_results_go_to_their_callers_whichever_call_ends_first(
        self, trial: Trial, durations: tuple[float, ...]
    ) -> None:
        """Three calls at a time, of which the first is the slowest.

        Usual causes: results in the order of completion.
        """

        async def serve(call: Call) -> object:
            return await after(durations[call.index % 3])(call)

        trial.serve = serve
        callers = trial.submit_all(3 * trial.policy.max_batch_size)
        await trial.pause(self.max_wait)
        assert trial.most_running == 3, f"{trial.most_running} of 3 calls run at a time"
        await trial.until_served()
        for caller in callers:
            call = trial.last_call(caller)
            late = 0.0 if call is None else (caller.ended or 0.0) - (call.ended or 0.0)
            assert late <= SLACK, f"{caller.name} waited {late:g} s after its call had ended"

    @requires("concurrency")
    @on_each_size(held, max_concurrency=2)
    async def test_a_running_call_holds_up_no_free_slot(self, trial: Trial) -> None:
        """With one of two slots taken for long, others are served within the window.

        Usual causes: a loop that awaits each call, a slot that is given back late or never.
        """
        size = trial.policy.max_batch_size
        await trial.submit_into_a_call(1)
        for _ in range(3):
            quick = trial.submit_all(2 * size + 1)
            while not all(caller.task.done() for caller in quick):
                open_calls = len(trial.open_calls)
                await trial.pause(self.max_wait)
                assert len(trial.open_calls) == 2, (
                    f"{len(trial.open_calls)} calls run, while items wait and 2 may; "
                    f"{open_calls} did a window ago"
                )
                finish(trial.calls[-1])
                await trial.pause()
            await trial.until_served(quick)
        await trial.finish_all()
        await trial.until_served()
