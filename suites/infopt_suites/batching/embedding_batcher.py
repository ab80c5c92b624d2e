"""EmbeddingBatcherSuite: does every text get its own vector, whatever others ask for?"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from ..base import requires
from ..properties import for_all, noted
from .batcher_calls import MISCOUNTED, WRONG, Call, after, check_told, held, others
from .embedding_trial import EmbeddingTrial, Text, vector_of
from .embedding_windows import EmbeddingWindowSuite, on_batcher, on_each_size
from .protocol import MakeEmbeddingBatcher


class EmbeddingBatcherSuite(EmbeddingWindowSuite):
    """Properties of batchers for embeddings, on virtual time.

    Give a fixture ``make_embedding_batcher``: a `protocol.MakeEmbeddingBatcher`. The backend is the
    suite's. `EmbedderSuite` asks whether a real model's vectors depend on their neighbours. Class
    attributes say how a batcher differs:

    | attribute | default | meaning |
    |---|---|---|
    | ``batch_sizes`` | (1, 2, 3, 5) | values of ``max_batch_size`` that are tried |
    | ``max_wait`` | 8.0 | the window, in seconds of virtual time |
    | ``virtual`` | True | False: on the real clock, a window of 8 s in 20 ms |
    | ``wrong_results`` | all | results of `batcher_calls.WRONG` that fail a call |
    | ``sends_at_once`` | False | a call begins with what is there as soon as one may begin |
    | ``unbounded_calls`` | False | calls begin however many run, whatever ``max_concurrency`` |
    | ``retries_one_by_one`` | False | a call that failed is repeated for each of its texts alone |
    | ``recovers_within`` | 0.0 | seconds after a failed call in which callers may be turned away |
    | ``examples`` | 60 | drawn cases of a property |
    """

    topic = "embedding_batcher"

    def test_every_text_gets_its_own_vector(
        self, make_embedding_batcher: MakeEmbeddingBatcher
    ) -> None:
        """Of lists of any length, with equal texts in and between them, that come at any time, and
        some of whose callers give up.

        Usual causes: batches joined in the order in which they end, an accumulator that each batch
        overwrites, duplicates that are dropped from the result, texts sorted and not sorted back.
        """

        def holds(case: tuple[int, int, list[tuple[int, list[str], int, bool]]]) -> None:
            size, at_once, arrivals = case

            async def serve(call: Call) -> Any:
                return await after(arrivals[call.index % len(arrivals)][2])(call)

            async def scenario(trial: EmbeddingTrial) -> None:
                for gap, texts, _, gives_up in arrivals:
                    if gap:
                        await trial.pause(gap)
                        for caller in trial.callers[-1:] if gives_up else []:
                            caller.task.cancel()
                    trial.embed(texts)
                await trial.until_done()
                for caller in trial.callers:
                    if not caller.task.cancelled():
                        trial.check_result(caller)

            make = make_embedding_batcher
            self.run(make, scenario, serve, size, timeless=True, max_concurrency=at_once)

        texts = st.lists(st.sampled_from(["a", "b", "cc", "dd", "eee", "f", "gg"]), max_size=6)
        arrival = st.tuples(
            st.sampled_from([0, 0, 1, 5, 9]), texts, st.sampled_from([0, 1, 3, 20]), st.booleans()
        )
        concurrent = "concurrency" in self.capabilities
        cases = st.tuples(
            st.sampled_from(self.batch_sizes),
            st.integers(1, 3) if concurrent else st.just(1),
            st.lists(arrival, min_size=1, max_size=8),
        )
        for_all(holds, cases, examples=self.examples)

    @on_batcher()
    async def test_no_texts_need_no_call(self, trial: EmbeddingTrial) -> None:
        """An empty list has no vectors, and nobody waits for them.

        Usual causes: a wait for a batch that is never sent, an empty batch that is.
        """
        await trial.until_served([trial.embed([])], within=0.0)
        assert not trial.calls, "the backend was called for no texts"
        full, empty = trial.embed(["a", "b"]), trial.embed([])
        await trial.until_served([empty], within=0.0)
        await trial.until_served([full])

    def test_long_lists_are_split_and_joined(
        self, make_embedding_batcher: MakeEmbeddingBatcher
    ) -> None:
        """k · max_batch_size + r texts take as many calls as they must, and come back in order;
        what fills no batch is served as well.

        Usual causes: only the last batch is kept, or the first; leftovers that wait for more; calls
        that end in another order than they began.
        """

        async def serve(call: Call) -> Any:
            return await after(9.0 - 4.0 * (call.index % 3))(call)

        async def scenario(trial: EmbeddingTrial) -> None:
            size = trial.policy.max_batch_size
            for count in sorted({1, size - 1, size, size + 1, 2 * size, 3 * size, 3 * size + 1}):
                texts = [f"text {index}" for index in range(count)]
                for _ in range(2):
                    before = len(trial.calls)
                    await trial.until_served([trial.embed(texts)])
                    calls = len(trial.calls) - before
                    needed = self.most_calls(count, size, trial.policy.max_concurrency)
                    assert calls <= needed, (
                        f"{count} texts in {calls} calls, {needed} of {size} would do"
                    )

        for slots in (1, 3) if "concurrency" in self.capabilities else (1,):
            self.run_each_size(make_embedding_batcher, scenario, serve, max_concurrency=slots)

    @on_each_size(
        1.0, timeless=True, each={"texts": ("aa", "aba", "aabb", "abcabc", "aaaaaaa", "abababab")}
    )
    async def test_equal_texts_get_equal_vectors(self, trial: EmbeddingTrial, texts: str) -> None:
        """In one list, next to each other and apart, in one batch and in two.

        Usual causes: a set of the texts, a result that has one vector for each different text.
        """
        await trial.until_served([trial.embed([*texts]), trial.embed([*texts[::-1]])])

    @on_batcher(timeless=True)
    async def test_texts_are_taken_as_they_are(self, trial: EmbeddingTrial) -> None:
        """Also where they are empty, or equal but for spaces and capitals.

        Usual causes: ``if text``, keys that are stripped or lowered.
        """
        texts = ["", " ", "a", "A", "a ", "ä", "a\u0308", "\n", "None"]
        await trial.until_served([trial.embed(texts), trial.embed([""]), trial.embed([])])

    @on_batcher(2.0, 9)
    async def test_lists_belong_to_their_callers(self, trial: EmbeddingTrial) -> None:
        """What a caller does to the list it gave, or got, is nobody else's matter.

        Usual causes: the caller's list is kept until the batch is sent; one result list for all.
        """
        given = ["a", "b"]
        caller = trial.embed_exactly(given, ["a", "b"])
        other = trial.embed(["a", "b"])
        await trial.pause(1.0)
        given[:] = ["c"]
        await trial.until_served([caller])
        got = caller.task.result()
        if isinstance(got, list):
            got.clear()
        await trial.until_served([other, trial.embed(["a", "b"])])

    @requires("deduplicates")
    @on_batcher(held, 5)
    async def test_equal_texts_are_computed_once(self, trial: EmbeddingTrial) -> None:
        """While they wait, and while a call with them runs; when they are ready, anew.

        Usual causes: a look at the line and none at what runs, a text that stays known.
        """
        callers = [trial.embed(["a", "b", "a"]), trial.embed(["b", "a"])]
        await trial.pause(self.max_wait)
        callers.append(trial.embed(["b", "c"]))
        await trial.pause(1.0)
        await trial.finish_all()
        await trial.until_served(callers)
        computed = sorted(text for call in trial.calls for text in call.items)
        assert computed == ["a", "b", "c"], f"{computed} were computed for a, b and c"

    @on_each_size(timeless=True)
    async def test_a_failing_call_fails_those_who_asked_for_its_texts(
        self, trial: EmbeddingTrial
    ) -> None:
        """They are told what happened; others are served, and so is who asks again.

        Usual causes: an event that is set on success only, a failed text that stays known.
        """
        error, bad = ValueError("one of the texts"), set[str]()

        async def serve(call: Call) -> Any:
            await asyncio.sleep(1.0)
            bad.update(call.items[:1] if call.index == 1 else [])
            if bad & {*call.items}:
                raise error
            return call.answers()

        trial.serve = serve
        for caller in range(3):
            trial.embed([f"text {caller} {index}" for index in range(trial.policy.max_batch_size)])
        await trial.until_done()
        assert bad, f"a second call was to come; {trial.told()}"
        failed = bad if self.retries_one_by_one else {*trial.calls[1].items}
        for asked in trial.callers:
            if failed & {*asked.item}:
                check_told(asked, error)
            else:
                trial.check_result(asked)
        bad.clear()
        trial.serve = after(1.0)
        await trial.recover()
        await trial.until_served([trial.embed(asked.item) for asked in [*trial.callers]])

    def test_a_list_fails_with_any_of_its_calls(
        self, make_embedding_batcher: MakeEmbeddingBatcher
    ) -> None:
        """Whichever call fails, and whichever ends first, its caller is told what happened.

        Usual causes: vectors are read that are not there yet, an error of the first call alone.
        """
        error = ValueError("one of the texts")
        at_once = (1, 3) if "concurrency" in self.capabilities else (1,)
        for slots in at_once:
            for failing in range(3):
                for slowest in range(3):

                    async def serve(
                        call: Call, failing: int = failing, slowest: int = slowest
                    ) -> Any:
                        await asyncio.sleep(9.0 if call.index == slowest else 1.0)
                        if call.index == failing:
                            raise error
                        return call.answers()

                    async def scenario(trial: EmbeddingTrial) -> None:
                        caller = trial.embed([f"text {index}" for index in range(8)])
                        await trial.until_done([caller])
                        check_told(caller, error)
                        await trial.pause(9.0)
                        await trial.recover()
                        await trial.until_served([trial.embed(["text 7", "text 0"])])

                    self.run(make_embedding_batcher, scenario, serve, max_concurrency=slots)

    @on_batcher(timeless=True)
    async def test_what_is_no_list_of_vectors_fails_the_call(self, trial: EmbeddingTrial) -> None:
        """A text of the right length holds no vectors, nor does a mapping.

        Usual causes: len() and iteration, which both of them have.
        """
        for name in sorted(self.wrong_results):
            with noted(f"with results = {name}"):
                await self._spoiled(trial, WRONG[name], name)

    @on_batcher(timeless=True, each={"name": MISCOUNTED})
    async def test_a_wrong_number_of_vectors_fails_the_call(
        self, trial: EmbeddingTrial, name: str
    ) -> None:
        """One less, one more, none: nobody gets a vector of another text.

        Usual causes: zip without strict.
        """
        await self._spoiled(trial, MISCOUNTED[name], name)

    @on_batcher(
        size=4,
        each={
            "windows": (0.0, 0.5, 1.5),
            "gone": ([0], [1], [2], [3], [0, 1], [0, 2, 3], [0, 1, 2, 3]),
        },
    )
    async def test_a_caller_who_gives_up_leaves_the_others_alone(
        self, trial: EmbeddingTrial, windows: float, gone: list[int]
    ) -> None:
        """Also those who asked for the same texts, in an open batch as in a running call.

        Usual causes: the text of the first who asked is taken out for all, a future that is shared
        and cancelled by one.
        """
        lists = (["a", "b"], ["b", "c"], ["a", "c", "d"], ["e"])
        trial.serve = after(self.max_wait)
        callers = [trial.embed(texts) for texts in lists]
        await trial.pause(windows * self.max_wait)
        for place in gone:
            callers[place].task.cancel()
        await trial.until_done([callers[place] for place in gone], within=0.0)
        again = [trial.embed(texts) for texts in lists[:2]]
        await trial.until_served([*others(callers, gone), *again])

    @requires("withdraw")
    @on_batcher(held)
    async def test_texts_whose_callers_are_gone_are_not_sent(self, trial: EmbeddingTrial) -> None:
        """And those that somebody else asks for are.

        Usual causes: a count of callers that is never taken down, an entry that stays in the line.
        """
        running = trial.embed(["1", "2", "3"])
        await trial.pause(self.max_wait)  # takes the slot
        gone = [trial.embed(["a", "shared", "a"]), trial.embed(["b", "a"])]
        left = trial.embed(["shared", "c"])
        await trial.pause(1.0)
        for caller in gone:
            caller.task.cancel()
        await trial.pause(1.0)
        await trial.finish_all()
        await trial.until_served([running, left])
        sent = {text for call in trial.calls for text in call.items}
        assert not sent & {"a", "b"}, f"{sent & {'a', 'b'}} were sent, whose callers are gone"

    @requires("rejects")
    @on_batcher(held, max_queue_size=4, reject_when_full=True)
    async def test_a_list_without_room_is_turned_away_as_a_whole(
        self, trial: EmbeddingTrial
    ) -> None:
        """None of its texts is computed, and smaller lists still fit.

        Usual causes: texts are let in one by one until one does not fit.
        """
        served = [trial.embed(["1", "2", "3"])]
        await trial.pause(self.max_wait)  # takes the slot
        for texts, fits in ((["a", "b"], True), (["c", "d", "e"], False), (["f", "g"], True)):
            caller = trial.embed(texts)
            await trial.pause()
            assert caller.task.done() is not fits, (
                f"{len(texts)} texts {'were' if fits else 'were not'} turned away; 4 may wait, "
                f"and {2 * (len(served) - 1)} did"
            )
            if fits:
                served.append(caller)
            else:
                assert isinstance(caller.error, Exception), "served without a call"
        await trial.finish_all()
        await trial.until_served(served)
        sent = {text for call in trial.calls for text in call.items}
        assert not sent & {"c", "d", "e"}, f"{sent & {'c', 'd', 'e'}} of a refused list"

    @on_batcher(timeless=True)
    async def test_many_rounds_leave_nothing_behind(self, trial: EmbeddingTrial) -> None:
        """Neither texts nor tasks pile up.

        Usual causes: a dict of texts that nobody takes out.
        """

        async def serve(call: Call) -> Any:
            call.items, texts = [], call.items
            await asyncio.sleep(1.0)
            if call.index % 5 == 4:
                raise ValueError("one of its texts")
            return [vector_of(text) for text in texts]

        trial.serve = serve
        alive: weakref.WeakSet[Text] = weakref.WeakSet()
        for turn in range(30):
            texts = [Text(f"text {turn} {index}") for index in range(5)]
            alive.update(texts)
            callers = [trial.embed(texts[:3]), trial.embed(texts[2:])]
            del texts
            await trial.pause(self.max_wait)
            if turn % 3 == 0:
                callers[0].task.cancel()
            await trial.until_done()
            trial.calls.clear()
            trial.callers.clear()
            del callers
            await trial.pause(3.0 * self.max_wait)
        tasks = len(asyncio.all_tasks())
        gc.collect()
        assert len(alive) <= 10, f"{len(alive)} of 150 texts are still held when all is done"
        assert tasks <= 4, f"{tasks} tasks run when nothing is left to do"

    async def _spoiled(
        self, trial: EmbeddingTrial, wrong: Callable[[Call], Any], name: str
    ) -> None:
        """A call of the backend gives what is wrong; the next ones work."""
        first, texts = len(trial.calls), ["a", "b", "c"]

        async def serve(call: Call) -> Any:
            return wrong(call) if call.index == first else call.answers()

        trial.serve = serve
        caller = trial.embed(texts)
        await trial.until_done([caller])
        assert caller.error is not None or self.retries_one_by_one, (
            f"the backend gave {name} for 3 texts, and the caller got {caller.task.result()!r}"
        )
        if caller.error is None:
            trial.check_result(caller)
        await trial.recover()
        await trial.until_served([trial.embed(texts)])

    @requires("typed")
    @on_batcher(timeless=True)
    async def test_a_single_string_is_no_list_of_texts(self, trial: EmbeddingTrial) -> None:
        """It is refused, and not taken for its letters.

        Usual causes: a string is a sequence of strings.
        """
        caller = trial.embed_exactly("abc", ["abc"])
        await trial.until_done([caller])
        assert isinstance(caller.error, Exception), f"'abc': {caller.task.result()!r}"
        assert not trial.calls, "the backend was called for the letters of a string"

    @requires("stop")
    @on_batcher(timeless=True, each={"windows": (0.0, 0.5, 1.5), "count": (0, 1, 2, 7)})
    async def test_after_a_stop_nobody_waits(
        self, trial: EmbeddingTrial, windows: float, count: int
    ) -> None:
        """With an open batch, with calls that run, with a line behind them.

        Usual causes: the worker is cancelled, and neither what it took nor what waits is looked at.
        """
        trial.serve = after(self.max_wait)
        callers = [trial.embed([f"{n}", "shared", f"{n} too"]) for n in range(count)]
        await trial.pause(windows * self.max_wait)
        await trial.stop()
        await trial.until_done(callers, within=0.0)
        for caller in callers:
            if caller.served:
                trial.check_result(caller)
        late = trial.embed(["late"])
        await trial.until_done([late], within=0.0)
        assert isinstance(late.error, Exception), "served after a stop"
