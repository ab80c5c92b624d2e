"""Batches of requests, some of which the cache has."""

from __future__ import annotations

import itertools
from typing import Any

from ..base import requires
from .computing_properties import Unavailable, outcome_of
from .counted import BatchComputation, answer_to
from .requests import BASE, ask
from .trial import CacheSuite, Trial, nothing, on_caches, same
from .way_properties import nested_reply, spoil


class BatchProperties(CacheSuite):
    topic = ""

    @requires("batch")
    @on_caches(each={"kept": itertools.product((False, True), repeat=4)})
    async def test_any_part_of_a_batch_may_be_kept(
        self, trial: Trial, kept: tuple[bool, ...]
    ) -> None:
        """Each request gets its own answer, at its own place, whichever of them are kept; what is
        not kept is computed in one call, and nothing in none.

        Usual causes: the place among the missing taken for that among all, answers taken in the
        order in which they come, hits first and then the rest, a call with an empty list.
        """
        asked = [ask(f"Question {number}?") for number in range(4)]
        cache, compute = await trial.open(), BatchComputation()
        first = [each for each, known in zip(asked, kept, strict=True) if known]
        if first:
            await cache.get_or_compute_batch(first[::-1], compute)
            compute.batches.clear()
        for _ in range(2):
            answers = await cache.get_or_compute_batch(asked, compute)
            _check_batch(asked, answers, f"kept before: {kept}")
        computed = [len(batch) for batch in compute.batches]
        wanted = [4 - len(first)] if len(first) < 4 else []
        assert computed == wanted, f"calls with {computed} requests, {wanted} are missing"
        for request in asked:
            found = await cache.get(request)
            assert found is not None, f"not kept: {request['messages'][-1]}"
            assert found["content"] == answer_to(request, 0)["content"], "another's answer"

    @requires("batch")
    @on_caches()
    async def test_a_batch_may_ask_the_same_twice(self, trial: Trial) -> None:
        """Equal requests in one batch have equal answers, each at its place.

        Usual causes: a dictionary from request to place.
        """
        cache, compute = await trial.open(), BatchComputation()
        names = ("a", "b", "a", "c", "a", "c")
        asked = [ask(f"Question {name}?") for name in names]
        await cache.get_or_compute_batch([asked[3]], compute)
        for batch in (asked, asked[:3], [], asked[::-1]):
            answers = await cache.get_or_compute_batch(batch, compute)
            _check_batch(batch, answers, f"a batch of {len(batch)} with repetitions")
        assert all(compute.batches), "the model was called with nothing"

    @requires("batch")
    @on_caches()
    async def test_a_batch_that_fails_keeps_nothing(self, trial: Trial) -> None:
        """The error is raised, what was kept before stays, and the next try succeeds.

        Usual causes: entries made before the call.
        """
        cache, compute = await trial.open(), BatchComputation()
        asked = [ask(f"Question {number}?") for number in range(3)]
        await cache.get_or_compute_batch(asked[:1], compute)
        compute.error = Unavailable("the model is down")
        raised = await outcome_of(cache.get_or_compute_batch(asked, compute))
        assert raised is compute.error, f"{raised!r} where the model raised {compute.error!r}"
        for request in asked[1:]:
            nothing(await cache.get(request), "after an error")
        compute.error = None
        _check_batch(asked, await cache.get_or_compute_batch(asked, compute), "after an error")

    @requires("copies", "batch")
    @on_caches()
    async def test_equal_requests_of_a_batch_have_answers_of_their_own(self, trial: Trial) -> None:
        """What is done to one of them does not change another, computed or kept.

        Usual causes: one object at several places.
        """
        cache = await trial.open()

        async def compute(requests: Any) -> list[Any]:
            return [{**nested_reply(), "index": place} for place in range(len(requests))]

        for when in ("computed", "kept"):
            first, second = await cache.get_or_compute_batch([BASE, BASE], compute)
            spoil(first)
            same(second, {**nested_reply(), "index": 1}, when)


def _check_batch(asked: Any, answers: Any, where: str) -> None:
    assert len(answers) == len(asked), f"{len(answers)} answers to {len(asked)} requests ({where})"
    for index, (request, answer) in enumerate(zip(asked, answers, strict=True)):
        same(answer, answer_to(request, index), f"request {index}, {where}")
