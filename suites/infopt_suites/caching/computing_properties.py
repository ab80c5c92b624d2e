"""What is not kept is computed, raised where it fails, and kept as the policy says."""

from __future__ import annotations

import asyncio
from typing import Any

from ..base import requires
from .counted import Computation
from .requests import BASE, ask, changed, reply
from .trial import CacheSuite, Trial, nothing, on_caches, same

TOGETHER = 40  # requests at once: clients have a limit of connections
PATIENCE = 5.0  # seconds for what may never come
TURNS = 20  # of the event loop, in which whoever waits for nothing else has gone on


class ComputingProperties(CacheSuite):
    topic = ""

    @requires("compute")
    @on_caches()
    async def test_what_is_kept_is_not_computed(self, trial: Trial) -> None:
        """Computed when it is asked for first, and then kept.

        Usual causes: a computed answer that is not written, or under another key; a hit that is
        taken for a miss because it is falsy.
        """
        cache, compute = await trial.open(), Computation()
        for request in (BASE, ask("And of Germany?")):
            compute.calls = 0
            for _ in range(3):
                same(await cache.get_or_compute(request, compute), reply("computed 1"))
            assert compute.calls == 1, f"computed {compute.calls} times"
            same(await cache.get(request), reply("computed 1"))
        await cache.set(ask("And of Spain?"), reply("set"))
        same(await cache.get_or_compute(ask("And of Spain?"), compute), reply("set"))
        assert compute.calls == 1, "computed though another had set it"

    @requires("compute")
    @on_caches()
    async def test_what_fails_is_raised_and_not_kept(self, trial: Trial) -> None:
        """An error is the caller's to see, each time, and the next try may succeed.

        Usual causes: the error kept as an answer, a future that keeps it, an error that becomes
        None.
        """
        cache = await trial.open()
        for number in range(2):
            error = Unavailable(f"failure {number}")
            raised = await outcome_of(cache.get_or_compute(BASE, Computation(error)))
            assert raised is error, f"{raised!r} where the model raised {error!r}"
            nothing(await cache.get(BASE), "after an error")
        same(await cache.get_or_compute(BASE, Computation()), reply("computed 1"))

    @requires("policy")
    @on_caches()
    async def test_sampled_answers_are_kept_only_on_request(self, trial: Trial) -> None:
        """Who samples wants another answer each time. Nothing said means sampled: the API's
        default temperature is 1.

        Usual causes: a default of 0 for the temperature, ``or 0``, no look at it at all; a policy
        that refuses temperature 0 because it is falsy.
        """
        strict = await trial.open(cache_sampled=False, namespace=trial.spec.namespace + "s")
        free = await trial.open(cache_sampled=True)
        for temperature in (None, 1.0, 0.5, 0.0):
            request = changed(BASE, temperature=temperature)
            where = f"temperature {temperature}"
            for cache in (strict, free):
                await cache.set(request, reply(where))
            same(await free.get(request), reply(where), where)
            if temperature == 0.0:
                same(await strict.get(request), reply(where), where)
            else:
                nothing(await strict.get(request), where)

    @requires("policy", "compute")
    @on_caches(cache_sampled=False)
    async def test_sampled_answers_are_computed_each_time(self, trial: Trial) -> None:
        """Requests that sample get each an answer of their own, at once as one after another.

        Usual causes: a policy for ``set`` that the computing way does not know; single flight for
        requests that must not share.
        """
        cache, compute = await trial.open(), Computation()
        request = changed(BASE, temperature=1.0)
        for _ in range(2):
            await cache.get_or_compute(request, compute)
        assert compute.calls == 2, f"2 sampled requests, computed {compute.calls} times"
        compute = Computation(held=True)
        ways = [asyncio.create_task(cache.get_or_compute(request, compute)) for _ in range(3)]
        await compute.begun.wait()
        await others_have_come(cache)
        compute.go()
        await all_of(ways)
        assert compute.calls == 3, f"3 sampled requests at once, computed {compute.calls} times"
        nothing(await cache.get(request))

    @requires("policy")
    @on_caches()
    async def test_answers_that_are_no_answers_are_not_kept(self, trial: Trial) -> None:
        """Cut off by the limit of tokens, held back by a filter, or with nothing in them.

        Usual causes: no look at ``finish_reason``.
        """
        kinds: dict[str, dict[str, Any]] = {
            "cut off": reply("Once upon a", finish_reason="length"),
            "filtered": reply("I", finish_reason="content_filter"),
            "empty": reply(""),
            "nothing": reply(None),
        }
        cache = await trial.open()
        for kind, answer in kinds.items():
            await cache.set(BASE, answer)
            nothing(await cache.get(BASE), kind)
            if "compute" in self.capabilities:
                given = await cache.get_or_compute(BASE, Computation(answer))
                same(given, answer, f"{kind}, to the one who computed it")
                nothing(await cache.get(BASE), kind)


class Unavailable(Exception):
    """What a model raises in these properties."""


async def outcome_of(way: Any) -> Any:
    try:
        return await way
    except Exception as error:
        return error


async def others_have_come(cache: Any) -> None:
    """Let those who were started before do what they can do without an answer of the model.

    Look-ups take the way that theirs took, so that a busy machine is waited for.
    """
    for number in range(3):
        await cache.get(ask(f"Does nobody ask this, number {number}?"))
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def all_of(
    ways: Any, otherwise: str = "some requests never got an answer or an error"
) -> list[Any]:
    """What each came to, an answer or an error; AssertionError if one comes to nothing."""
    try:
        async with asyncio.timeout(PATIENCE):
            return [*await asyncio.gather(*ways, return_exceptions=True)]
    except TimeoutError:
        raise AssertionError(otherwise) from None
