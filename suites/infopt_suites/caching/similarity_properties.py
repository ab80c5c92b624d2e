"""Which questions share an answer: those that are similar enough, in the same context."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from hypothesis import strategies as st

from ..base import requires
from ..properties import for_all, tried
from ..wall_clock import on_virtual_time
from .computing_properties import outcome_of
from .counted import Computation
from .requests import BASE, FIELDS, ask, in_context, reply, short
from .trial import Caches, CacheSuite, Trial, nothing, on_caches, same
from .vectors import DIMENSION, KnownVectors, at, cosine, directionless

_EPS = float(np.finfo(np.float32).eps)

_FAILS = "The embedder fails at this?"
_NEAR = {"the kept one": at(1.0), "a near one": at(0.95), "a far one": at(0.5)}
_AXES = range(1, 6)

on_known = tried("caches", by="_check_known")  # a property of one `Trial`, with known vectors


def _failing(text: str) -> Any:
    if _FAILS in text:
        raise ConnectionError("the embedder is down")
    return KnownVectors()(text)


class SimilarityProperties(CacheSuite):
    """``resolution``: by how much a cosine that the implementation computes may be off; by default
    the rounding of float32 in two normalizations and a product.
    ``shared_fields``: fields over which answers are shared on purpose.
    ``thresholds``: the least and the largest that can be asked for.
    ``embedder_errors``: "missed" where a request whose embedder fails goes past the cache, or
    "raised" where the embedder's error is the caller's.
    """

    topic = ""
    resolution: ClassVar[float] = 4 * (DIMENSION + 2) * _EPS
    shared_fields: ClassVar[Sequence[str]] = ()
    thresholds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    embedder_errors: ClassVar[Literal["missed", "raised"]] = "missed"

    def test_similar_questions_hit_from_the_threshold_on(self, caches: Caches) -> None:
        """At any threshold, for any similarity from −1 to 1: opposite and unrelated ones miss.

        Usual causes: a similarity taken for a distance, ``1 - t`` or ``2 - 2t`` in one place, the
        absolute value of the cosine, a threshold that is not passed on.
        """
        gaps = (2 * self.resolution, 0.001, 0.01, 0.1)
        thresholds = (0.5, 0.8, 0.9, 0.95, 0.99)
        cosines = st.one_of(st.floats(-1.0, 1.0), *(st.sampled_from([-gap, gap]) for gap in gaps))

        def law_of(case: tuple[float, float]) -> None:
            threshold, offset = case
            near = offset if abs(offset) > 0.1 else threshold + offset
            near = min(max(near, -1.0), 1.0)
            if abs(near - threshold) <= self.resolution:
                return

            async def holds(trial: Trial) -> None:
                cache = await trial.open()
                await cache.set(ask("the kept one"), reply("kept"))
                found = await cache.get(ask("a near one"))
                where = f"cosine {near:.6f}, threshold {threshold}"
                if near > threshold:
                    same(found, reply("kept"), where)
                else:
                    nothing(found, where)

            known = {"the kept one": at(1.0), "a near one": at(near)}
            caches.check(holds, threshold=threshold, embed=KnownVectors(known))

        traps = [
            ("opposite", (0.9, -1.0)),
            ("unrelated", (0.9, -0.9)),
            ("opposite at a low threshold", (0.5, -1.0)),
            *((f"{gap} above {t}", (t, gap)) for t in thresholds for gap in gaps[:2]),
            *((f"{gap} below {t}", (t, -gap)) for t in thresholds for gap in gaps[:2]),
        ]
        for_all(law_of, st.tuples(st.sampled_from(thresholds), cosines), traps=traps, examples=30)

    def test_the_least_and_the_largest_threshold_are_taken_as_they_are(
        self, caches: Caches
    ) -> None:
        """At 1 the same question hits and a near one does not; at 0 what is not opposite hits.

        Usual causes: ``threshold or 0.9``; a cosine that rounding makes less than 1.
        """
        for threshold in self.thresholds:
            near, far = min(threshold + 0.1, 1.0), max(threshold - 0.1, -1.0)

            async def holds(trial: Trial, threshold: float = threshold, near: float = near) -> None:
                cache, where = await trial.open(), f"threshold {threshold}"
                await cache.set(ask("the kept one"), reply("kept"))
                same(await cache.get(ask("the kept one")), reply("kept"), f"the same, {where}")
                if near > threshold:
                    same(await cache.get(ask("a near one")), reply("kept"), f"0.1 above, {where}")
                nothing(await cache.get(ask("a far one")), f"0.1 below, {where}")

            known = {"the kept one": at(1.0), "a near one": at(near), "a far one": at(far)}
            # Of a kept question whose cosine with itself may be rounded below 1.
            turned = {phrase: _turned(vector) for phrase, vector in known.items()}
            caches.check(holds, threshold=threshold, embed=KnownVectors(turned))

    @requires("shared")
    @on_known(_NEAR)
    async def test_each_instance_keeps_to_its_own_threshold(self, trial: Trial) -> None:
        """Instances of one namespace with other thresholds share entries, and no threshold.

        Usual causes: a threshold that is kept with the index.
        """
        low, high = await trial.open(threshold=0.4), await trial.open(threshold=0.9)
        await low.set(ask("the kept one"), reply("kept"))
        for cache, hit in ((low, True), (high, False), (await trial.open(threshold=0.4), True)):
            same(await cache.get(ask("a near one")), reply("kept"))
            found = await cache.get(ask("a far one"))
            if hit:
                same(found, reply("kept"), "0.5, threshold 0.4")
            else:
                nothing(found, "0.5, threshold 0.9")

    def test_the_length_of_an_embedding_makes_no_difference(self, caches: Caches) -> None:
        """Of the kept question's and the new one's, tiny or huge.

        Usual causes: a dot product of vectors that nobody normalized, Euclidean distance.
        """
        lengths = (1.0, 1e-4, 10.0, 1e4)
        for kept, new in itertools.product(lengths, lengths):

            async def holds(trial: Trial, where: str = f"lengths {kept} and {new}") -> None:
                cache = await trial.open()
                await cache.set(ask("the kept one"), reply("kept"))
                same(await cache.get(ask("a near one")), reply("kept"), f"0.95, {where}")
                nothing(await cache.get(ask("a far one")), f"0.85, {where}")

            known = {"the kept one": at(1.0, length=kept)}
            known |= {"a near one": at(0.95, length=new), "a far one": at(0.85, length=new)}
            caches.check(holds, threshold=0.9, embed=KnownVectors(known))

    def test_an_embedding_without_a_direction_hits_nothing(self, caches: Caches) -> None:
        """Zeros, NaN, infinities, another number of numbers: no hit, no error, and no harm to the
        questions that were there or come later.

        Usual causes: comparisons with NaN, which are false either way round; 0 / 0; one bad row
        that spoils a matrix.
        """
        for kind, vector in directionless():

            async def holds(trial: Trial, kind: str = kind) -> None:
                cache = await trial.open()
                await cache.set(ask("the kept one"), reply("kept"))
                nothing(await cache.get(ask("a broken one")), f"{kind}, asked")
                await cache.set(ask("a broken one"), reply("broken"))
                for other in ("another broken one", "a far one", "Quite another?"):
                    nothing(await cache.get(ask(other)), f"{kind} was kept, {other}")
                same(await cache.get(ask("a near one")), reply("kept"), f"{kind} was kept")
                await cache.set(ask("a far one"), reply("far"))
                same(await cache.get(ask("a far one")), reply("far"), f"after {kind}")

            known = {"the kept one": at(1.0), "a near one": at(0.95), "a far one": at(0.5)}
            known |= {"a broken one": vector, "another broken one": vector}
            caches.check(holds, threshold=0.9, embed=KnownVectors(known))

    def test_the_most_similar_question_answers(self, caches: Caches) -> None:
        """Whatever the order in which they were kept, and word for word before all others.

        Usual causes: the first above the threshold, the newest, a list sorted the wrong way.
        """
        cosines = {"at one": 1.0, "at a": 0.98, "at b": 0.94, "at c": 0.92}
        known = {phrase: at(each, axis=3) for phrase, each in cosines.items()}
        for order in itertools.permutations(("at a", "at b", "at c")):

            async def holds(trial: Trial, order: tuple[str, ...] = order) -> None:
                cache = await trial.open()
                for phrase in order:
                    await cache.set(ask(phrase), reply(phrase))
                same(await cache.get(ask("at one")), reply("at a"), f"kept in the order {order}")
                for phrase in order:
                    same(await cache.get(ask(phrase)), reply(phrase), "word for word")

            caches.check(holds, threshold=0.9, embed=KnownVectors(known))

    @on_known({"the middle": at(1.0), **{f"at axis {n}": at(0.95, axis=n) for n in (1, 2, 3)}})
    async def test_equally_similar_questions_answer_the_same_way_each_time(
        self, trial: Trial
    ) -> None:
        """Any of them, and always that one.

        Usual causes: a comparison that fails on ties, such as sorting answers.
        """
        cache = await trial.open()
        for axis in (1, 2, 3):
            await cache.set(ask(f"at axis {axis}"), reply(f"axis {axis}"))
        answers = [await cache.get(ask("the middle")) for _ in range(4)]
        assert answers[0] in [reply(f"axis {axis}") for axis in (1, 2, 3)], f"{answers[0]}"
        for answer in answers:
            same(answer, answers[0], "asked again")

    def test_answers_agree_with_comparing_all(self, caches: Caches) -> None:
        """Any questions and any order: the best above the threshold, or nothing.

        Usual causes: an index that loses what comes after it was built, approximate search, rows
        that have moved since.
        """
        vectors = st.lists(st.integers(-2, 2), min_size=4, max_size=4).filter(any)
        cases = st.tuples(
            st.lists(vectors, min_size=1, max_size=12), st.lists(vectors, min_size=1, max_size=4)
        )

        def law_of(case: tuple[list[list[int]], list[list[int]]]) -> None:
            kept, asked = case
            padding = [0.0] * (DIMENSION - 4)
            known = {f"kept {chr(97 + i)}": [*map(float, v), *padding] for i, v in enumerate(kept)}
            known |= {f"new {chr(97 + i)}": [*map(float, v), *padding] for i, v in enumerate(asked)}

            async def holds(trial: Trial) -> None:
                cache = await trial.open()
                there: list[str] = []
                for phrase in known:
                    if phrase.startswith("kept"):
                        await cache.set(ask(phrase), reply(phrase))
                        there.append(phrase)
                for phrase in known:
                    self._check_best(known, there, phrase, await cache.get(ask(phrase)))

            caches.check(holds, threshold=0.75, embed=KnownVectors(known))

        for_all(law_of, cases, examples=30)

    def _check_known(
        self, caches: Caches, holds: Any, known: Mapping[str, Any], **options: Any
    ) -> None:
        __tracebackhide__ = True
        self._check(caches, holds, **{"threshold": 0.9, "embed": KnownVectors(known), **options})

    def _check_best(
        self, known: Mapping[str, Any], there: list[str], phrase: str, found: Any
    ) -> None:
        near = {each: cosine(known[each], known[phrase]) for each in there}
        best = max(near.values())
        if abs(best - 0.75) <= self.resolution:
            return
        if best < 0.75:
            nothing(found, f"{phrase}, the best is at {best:.6f}")
            return
        assert found is not None, f"{phrase}: nothing was found, the best is at {best:.6f}"
        good = [each for each, value in near.items() if value >= best - 2 * self.resolution]
        assert found["content"] in good, (
            f"{phrase}: {found['content']} at {near.get(found['content'], 0.0):.6f} was found, "
            f"the best is {good[0]} at {best:.6f}"
        )

    @on_known({"the kept one": at(1.0), "a near one": at(0.97)})
    async def test_only_questions_of_the_same_context_are_compared(self, trial: Trial) -> None:
        """Another model, tenant, adapter, system prompt, history or parameter is another context,
        for the same question and for a similar one.

        Usual causes: a search over all entries, a filter on some fields, the last message alone.
        """
        contexts = list(_contexts([f for f in self.fields if f not in self.shared_fields]))
        cache = await trial.open()
        for number, (change, fields) in enumerate(contexts):
            for question in ("the kept one", "a near one"):
                found = await cache.get(in_context(fields, question))
                nothing(found, f"{question}, kept in other contexts than {change}")
            await cache.set(in_context(fields, "the kept one"), reply(f"answer {number}"))
        for number, (change, fields) in enumerate(contexts):
            for question in ("the kept one", "a near one"):
                found = await cache.get(in_context(fields, question))
                same(found, reply(f"answer {number}"), f"{question}, {change}")

    @on_known(_NEAR)
    async def test_other_contexts_do_not_stand_in_the_way(self, trial: Trial) -> None:
        """Though more similar questions are there, in contexts that must not answer.

        Usual causes: the nearest few of all are searched, and those of other contexts dropped
        afterwards.
        """
        apart = [name for name in ("tenant", "model") if name in self.fields]
        scopes = [name for name in apart if name not in self.shared_fields]
        cache = await trial.open()
        await cache.set(ask("a near one"), reply("own"))
        for number in range(40):
            before = [{"role": "system", "content": f"Be other {number}."}]
            scope = {scopes[0]: f"other {number}"} if scopes else {"before": before}
            await cache.set(in_context(scope, "the kept one"), reply("another's"))
        same(await cache.get(ask("the kept one")), reply("own"))
        nothing(await cache.get(ask("a far one")))

    @requires("ttl")
    @on_known(
        {"the kept one": at(1.0), "a near one": at(0.97), "a later one": at(0.92)}, mortal=True
    )
    async def test_a_similar_question_does_not_make_it_live_longer(self, trial: Trial) -> None:
        """Nor does one whose answer is over stand in the way of one that lives.

        Usual causes: the expiry set anew with each hit; vectors that outlive their answers.
        """
        cache = await trial.open()
        await cache.set(ask("the kept one"), reply("kept"))
        await trial.advance(0.75 * self.ttl)
        same(await cache.get(ask("a near one")), reply("kept"), "at 0.75 of its time")
        await cache.set(ask("a later one"), reply("later"))
        await trial.advance(0.5 * self.ttl)
        for question in ("the kept one", "a near one"):
            same(await cache.get(ask(question)), reply("later"), f"{question}, at 1.25")
        await trial.advance(0.5 * self.ttl)
        nothing(await cache.get(ask("a near one")), "when both are over")

    @requires("capacity")
    @on_known(
        {f"at axis {axis}": at(0.0, axis) for axis in _AXES}
        | {f"near axis {axis}": at(0.2, axis) for axis in _AXES},
        capacity=2,
    )
    async def test_what_was_evicted_answers_no_more(self, trial: Trial) -> None:
        """Neither itself nor similar questions, and it hides nobody who is there.

        Usual causes: evicted from the answers and not from the vectors, or the other way round;
        rows that move up when one goes.
        """
        cache = await trial.open()
        for axis in _AXES:
            await cache.set(ask(f"at axis {axis}"), reply(f"axis {axis}"))
        found = [await cache.get(ask(f"near axis {axis}")) for axis in _AXES]
        kept = [axis for axis, answer in enumerate(found, 1) if answer is not None]
        assert len(kept) == 2, f"{len(kept)} of 5 questions are found with room for 2"
        assert 5 in kept, "the newest was evicted"
        for axis in kept:
            same(found[axis - 1], reply(f"axis {axis}"), "an answer of another question")

    @on_known(_NEAR)
    async def test_a_similar_question_gets_the_answer_that_replaced_another(
        self, trial: Trial
    ) -> None:
        """And questions that are similar to each other keep an answer each.

        Usual causes: a second vector for the same question, an answer written over that of the
        nearest question.
        """
        cache = await trial.open()
        for number in range(3):
            await cache.set(ask("the kept one"), reply(f"kept {number}"))
            same(await cache.get(ask("a near one")), reply(f"kept {number}"))
        await cache.set(ask("a near one"), reply("near"))
        same(await cache.get(ask("the kept one")), reply("kept 2"))
        same(await cache.get(ask("a near one")), reply("near"))

    def test_questions_kept_at_once_are_all_found(self, caches: Caches) -> None:
        """Many requests end at the same time.

        Usual causes: an index that is read, extended and written.
        """
        phrases = {f"number {chr(97 + n)}": at(0.0, n) for n in range(1, DIMENSION)}

        async def holds(trial: Trial) -> None:
            cache = await trial.open()
            await asyncio.gather(*(cache.set(ask(each), reply(each)) for each in phrases))
            for each in phrases:
                same(await cache.get(ask(each)), reply(each), each)

        caches.check(holds, threshold=0.9, embed=KnownVectors(phrases))

    @on_caches(embed=_failing)
    async def test_an_embedder_that_fails_is_a_miss(self, trial: Trial) -> None:
        """A service that answers without its embedder answers better than one that does not. Where
        ``embedder_errors`` says "raised", the error is the embedder's own, and nothing breaks.

        Usual causes: no thought of it.
        """
        cache = await trial.open()
        await cache.set(ask("Known?"), reply("known"))
        if self.embedder_errors == "raised":
            await _check_raised(cache.get(ask(_FAILS)))
            await _check_raised(cache.set(ask(_FAILS), reply("kept without a vector")))
        else:
            nothing(await cache.get(ask(_FAILS)))
            await cache.set(ask(_FAILS), reply("kept without a vector"))
        if "compute" in self.capabilities:
            computing = cache.get_or_compute(ask(_FAILS), Computation(reply("computed")))
            if self.embedder_errors == "raised":
                await _check_raised(computing)
            else:
                found = await computing
                assert found["content"] in ("computed", "kept without a vector"), short(found)
        same(await cache.get(ask("Known?")), reply("known"), "when it works again")

    @requires("sync")
    def test_looking_up_without_a_loop_finds_the_same(self, caches: Caches) -> None:
        """At any similarity and threshold.

        Usual causes: distances in one way and similarities in the other, a threshold converted
        once or twice.
        """
        known = {"the kept one": at(1.0)}
        for name, each in zip("abcdef", (0.995, 0.95, 0.7, 0.4, 0.0, -1.0), strict=True):
            known[f"cosine {name}"] = at(each)
        for threshold in (0.3, 0.6, 0.9, 0.99):

            async def holds(trial: Trial, threshold: float = threshold) -> None:
                cache = await trial.open()
                await cache.set(ask("the kept one"), reply("kept"))
                for phrase in known:
                    awaited = await cache.get(ask(phrase))
                    direct = await asyncio.to_thread(on_virtual_time(cache.lookup), ask(phrase))
                    where = f"{phrase}, threshold {threshold}"
                    if awaited is None:
                        nothing(direct, where)
                    else:
                        same(direct, awaited, where)

            caches.check(holds, threshold=threshold, embed=KnownVectors(known))

    @requires("shared")
    @on_known(_NEAR)
    async def test_other_instances_find_similar_questions(self, trial: Trial) -> None:
        """Those that were open, and those that are opened later.

        Usual causes: an index that is read at the start alone, or never.
        """
        first, second = await trial.open(), await trial.open()
        nothing(await second.get(ask("a near one")), "before it was kept")
        await first.set(ask("the kept one"), reply("kept"))
        for cache in (first, second, await trial.open()):
            same(await cache.get(ask("a near one")), reply("kept"))
            nothing(await cache.get(ask("a far one")))
        if "clear" in self.capabilities:
            await first.clear()
            for cache in (first, second):
                nothing(await cache.get(ask("a near one")), "after another has cleared it")

    @requires("shared")
    @on_known(_NEAR)
    async def test_another_embedder_compares_with_nothing(self, trial: Trial) -> None:
        """Its vectors mean something else, even where they have the same length; and with another
        length there is no error.

        Usual causes: a store that is used on after the embedder was changed.
        """
        there = {"the kept one": at(0.0), "the other one": at(1.0), "a near one": at(0.0, 2)}
        longer = {phrase: [*vector, 0.0, 0.0] for phrase, vector in there.items()}
        first = await trial.open()
        await first.set(ask("the kept one"), reply("kept"))
        second = await trial.open(embedder="another", embed=KnownVectors(there))
        third = await trial.open(
            embedder="a longer one",
            embed=KnownVectors(longer, dimension=DIMENSION + 2),
            dimension=DIMENSION + 2,
        )
        for cache in (second, third):
            nothing(await cache.get(ask("the other one")), "kept with another embedder")
            await cache.set(ask("the other one"), reply("other"))
            same(await cache.get(ask("the other one")), reply("other"))
        same(await first.get(ask("a near one")), reply("kept"), "with the first embedder")


async def _check_raised(way: Any) -> None:
    raised = await outcome_of(way)
    assert isinstance(raised, ConnectionError), (
        f"{raised!r} where the embedder raised ConnectionError, and embedder_errors is 'raised'"
    )


def _turned(vector: Sequence[float]) -> list[float]:
    """The vector, turned by a fixed orthogonal matrix, so that none of its numbers is 0."""
    mirror = np.arange(1.0, DIMENSION + 1) ** 0.5
    numbers = np.array(vector)
    turned = numbers - 2 * mirror * (mirror @ numbers) / (mirror @ mirror)
    return [float(number) for number in turned]


def _contexts(fields: Sequence[str]) -> Any:
    """A name and the fields of each context: two values a field, and what stands before."""
    yield "nothing", {}
    for field in fields:
        if field != "messages":
            for value in FIELDS[field][:2]:
                if BASE.get(field) != value:
                    yield f"{field} = {short(value)}", {field: value}
    if "messages" in fields:
        before: list[list[dict[str, Any]]] = [
            [],
            [{"role": "system", "content": "Be long."}],
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
            [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello!"}],
            [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "No."}],
        ]
        for turns in before:
            yield f"after {short(turns)}", {"before": turns}
