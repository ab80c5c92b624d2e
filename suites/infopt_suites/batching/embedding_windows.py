"""What every embedding batcher promises of its windows, and which texts share calls."""

from __future__ import annotations

from typing import ClassVar

from ..base import requires
from ..properties import tried
from .batcher_calls import after
from .embedding_trial import EmbeddingTrial
from .trial_suite import TrialSuite

on_batcher = tried("make_embedding_batcher", by="run")  # a property that is a scenario
on_each_size = tried("make_embedding_batcher", by="run_each_size")


class EmbeddingWindowSuite(TrialSuite):
    """The part of `EmbeddingBatcherSuite` about which texts share calls, and when they are sent."""

    topic = "embedding_batcher"
    fixture = "make_embedding_batcher"
    fixture_returns = "a callable: backend, BatchPolicy -> embedding batcher"
    offers = {  # noqa: RUF012  # read only
        "shared": "texts that come within max_wait share calls, whoever asks",
        "window": "a batch stays open until its oldest text has waited max_wait",
        "full": "a full batch is sent at once, if a call can begin",
        "no-window": "max_wait = 0 is allowed: no time passes",
        "deduplicates": "of equal texts that are not ready yet, one is computed",
        "withdraw": "texts whose callers are all gone before they are sent are not sent",
        "rejects": "reject_when_full turns a list away, as a whole, for which there is no room",
        "concurrency": "max_concurrency calls run at a time",
        "stop": "stop() leaves no caller waiting, and later ones are turned away",
        "typed": "a single string in place of a list is refused",
    }
    examples: ClassVar[int] = 60
    _trial = EmbeddingTrial

    @requires("shared")
    @on_each_size(1.0)
    async def test_callers_share_calls(self, trial: EmbeddingTrial) -> None:
        """Texts of many callers fill the same batches.

        Usual causes: a batch for each caller.
        """
        size = trial.policy.max_batch_size
        for count in range(1, 2 * size + 2):
            before = len(trial.calls)
            await trial.until_served([trial.embed([f"text {index}"]) for index in range(count)])
            calls, needed = trial.sizes[before:], self.most_calls(count, size)
            assert len(calls) <= needed, (
                f"{count} callers with a text each in calls of {calls}, {needed} of {size} would "
                f"do, and sends_at_once is {self.sends_at_once}"
            )

    @on_batcher(size=99, each={"gap": (0.9, 0.5), "seconds": (0.0, 1.0)})
    async def test_steady_arrivals_do_not_prolong_the_window(
        self, trial: EmbeddingTrial, gap: float, seconds: float
    ) -> None:
        """One list after the other, each shortly before the window since the last one ends: nobody
        waits longer than the window, neither for new texts nor for those that others asked for.

        Usual causes: a window that begins anew with each list, or with each text that is new.
        """
        trial.serve = after(seconds)
        for index in range(9):
            trial.embed([f"text {index}", "in every list"])
            await trial.pause(gap * self.max_wait)
        await trial.until_served()

    @on_each_size(each={"moment": (0.5, 0.9, 0.99)})
    async def test_a_late_second_list_does_not_prolong_the_window(
        self, trial: EmbeddingTrial, moment: float
    ) -> None:
        """It comes shortly before the first one's window ends, and nobody after it.

        Usual causes: the time that is left is computed, and the whole window waited for.
        """
        trial.embed(["a"])
        await trial.pause(moment * self.max_wait)
        trial.embed(["b"])
        await trial.until_served()

    @on_each_size(1.0, each={"count": (1, 2, 3, 4)})
    async def test_what_is_left_of_a_list_waits_no_longer_than_the_window(
        self, trial: EmbeddingTrial, count: int
    ) -> None:
        """Of a list longer than a batch, what fills none; and whoever comes after that.

        Usual causes: a window that begins when the batch before was sent, leftovers that wait for
        others, a timer that was set for the batch before and cancelled with it.
        """
        size = trial.policy.max_batch_size
        trial.embed([f"text {index}" for index in range(size + count)])
        await trial.pause(1.5 * self.max_wait)
        trial.embed(["late"])
        await trial.until_served()

    @requires("window")
    @on_batcher(0.0, 7)
    async def test_lists_within_the_window_share_a_call(self, trial: EmbeddingTrial) -> None:
        """The batch stays open until its oldest text has waited as long as it may.

        Usual causes: a batch is sent when the loop has a moment, or with each list; the timer of a
        batch that was sent long ago.
        """
        for turn, full_before in enumerate((False, True, False)):
            if full_before:  # whose window would have ended in the midst of the next ones
                await trial.until_served([trial.embed([f"full {n}" for n in range(7)])])
                await trial.pause(0.3 * self.max_wait)
            before = len(trial.calls)
            for index in range(4):
                trial.embed([f"text {turn} {index}"])
                await trial.pause(0.2 * self.max_wait)
            trial.embed([f"text {turn} a", f"text {turn} b"])
            await trial.until_served()
            assert trial.sizes[before:] == [6], (
                f"6 texts within 0.8 windows in calls of {trial.sizes[before:]}"
            )
            await trial.pause(0.7 * self.max_wait)

    @requires("full")
    @on_each_size(0.0)
    async def test_a_full_batch_is_sent_at_once(self, trial: EmbeddingTrial) -> None:
        """Nobody waits for a window whose batch is full, of one list or of many.

        Usual causes: only the timer sends, the size is looked at before the text is added, lists
        are counted and not texts.
        """
        size = trial.policy.max_batch_size
        for batches in (1, 2):
            trial.embed([f"text {batches} {index}" for index in range(size * batches)])
            await trial.pause()
            await trial.until_served(within=0.0)
        for index in range(size):  # the last one fills it
            trial.embed([f"text {index}"])
            await trial.pause(self.max_wait / (2 * size))
        await trial.until_served(within=0.0)

    @requires("no-window")
    @on_each_size(0.0, max_wait=0.0)
    async def test_without_a_window_nobody_waits(self, trial: EmbeddingTrial) -> None:
        """max_wait = 0: what is there is sent at once, what fills no batch as well.

        Usual causes: 0 read as "not given", a timer of 0 seconds for each text.
        """
        for count in (1, trial.policy.max_batch_size, trial.policy.max_batch_size + 1):
            await trial.until_served([trial.embed([f"t {n}" for n in range(count)])], within=0.0)
