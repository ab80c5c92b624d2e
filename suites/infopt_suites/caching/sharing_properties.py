"""Several instances, in one process or in several, are one cache to those who ask them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import Any

from ..base import requires
from .computing_properties import Unavailable, all_of, others_have_come
from .counted import Computation
from .processes import OF_ANOTHER, keeping_in_another
from .protocol import Request
from .requests import BASE, ask, changed, reply
from .trial import Caches, CacheSuite, Trial, nothing, on_caches, same
from .ways import WAYS_OUT, find, offered

_MANY = 24  # requests that are kept at once
_MOST = 1000  # and while another process is at work
_PAUSE = 0.002  # seconds between them


class SharingProperties(CacheSuite):
    topic = ""

    @on_caches()
    async def test_writers_at_once_lose_nothing(self, trial: Trial) -> None:
        """Many requests end at the same time, in one instance or in two.

        Usual causes: an index, file or value that is read, extended and written.
        """
        count = 2 if "shared" in self.capabilities else 1
        caches = [await trial.open() for _ in range(count)]
        asked = [ask(f"Question {number}?") for number in range(_MANY)]
        await asyncio.gather(
            *(caches[n % count].set(each, reply(f"answer {n}")) for n, each in enumerate(asked))
        )
        readers = [*caches, await trial.open()] if count > 1 else caches
        for reader in readers:
            for number, request in enumerate(asked):
                self.expect(await reader.get(request), reply(f"answer {number}"), request)

    @requires("shared", "processes")
    def test_processes_that_write_at_once_lose_nothing(self, caches: Caches) -> None:
        """Two processes keep answers, without waiting for each other.

        Usual causes: a lock that only the tasks or threads of one process know; a file that is
        read, extended and written.
        """

        async def holds(trial: Trial) -> None:
            others = [ask(f"Another's {number}?") for number in range(2 * _MANY)]
            own: list[Any] = []
            cache = await trial.open()
            await cache.get(BASE)
            with keeping_in_another(caches.make, trial, others) as is_at_work:
                while is_at_work() and len(own) < _MOST:
                    own.append(ask(f"Own {len(own)}?"))
                    await cache.set(own[-1], reply("own"))
                    # Who waits for a lock looks now and then, and has to find it free once.
                    await asyncio.sleep(_PAUSE)
            for content, requests in (("own", own), (OF_ANOTHER, others)):
                found = [await cache.get(request) for request in requests]
                lost = [each for each in found if each is None]
                assert not lost, f"{len(lost)} of {len(found)} answers were lost, {content}"
                for answer in found:
                    same(answer, reply(content), "another request's answer")

        caches.check(holds)

    @requires("shared", "clear")
    @on_caches()
    async def test_nothing_cleared_returns(self, trial: Trial) -> None:
        """Neither in the instance that was cleared, nor in another that had found it before, nor
        when that one keeps, computes or closes.

        Usual causes: a layer in memory that is not told, and that fills the store again; entries
        written when an instance is closed.
        """
        first, second = await trial.open(), await trial.open()
        asked = [ask(f"Question {number}?") for number in range(3)]
        for request in asked:
            await first.set(request, reply("kept"))
            same(await second.get(request), reply("kept"))
        await first.clear()
        await self._check_cleared(trial, [first, second], asked)
        await second.set(ask("New?"), reply("new"))
        await self._check_cleared(trial, [second, first, await trial.open()], asked)
        for closed in (second, first):
            await trial.close(closed)
            await self._check_cleared(trial, [await trial.open()], asked)
        same(await (await trial.open()).get(ask("New?")), reply("new"), "kept after the clearing")

    @requires("shared", "clear", "redis")
    @on_caches(proxied=True, redis_timeout=5.0, each={"held": range(1, 5)})
    async def test_a_look_up_under_way_brings_nothing_cleared_back(
        self, trial: Trial, held: int
    ) -> None:
        """It has read the entry, another instance clears, and the look-up ends.

        Usual causes: what was read goes into a layer in memory without asking whether it is still
        there.
        """
        first, second = await trial.open(), await trial.open()
        await second.get(ask("Is a connection made?"))
        await first.set(BASE, reply("kept"))
        await trial.held_up(second.get(BASE), first.clear(), command=held, before=False)
        await self._check_cleared(trial, [second, first], [BASE])

    @requires("shared", "ttl")
    @on_caches()
    async def test_each_entry_ends_as_its_instance_says(self, trial: Trial) -> None:
        """Instances with other times to live share a namespace; each keeps to its own.

        Usual causes: one time to live for a namespace, that of the last instance which was opened.
        """
        short, long = await trial.open(ttl=self.ttl), await trial.open(ttl=2 * self.ttl)
        for cache, name in ((short, "short"), (long, "long")):
            await cache.set(ask(f"Kept for a {name} time?"), reply(name))
        await trial.advance(1.25 * self.ttl)
        nothing(await short.get(ask("Kept for a short time?")), "at 1.25 times its time")
        same(await long.get(ask("Kept for a long time?")), reply("long"), "at 0.625 of its time")
        await trial.advance(self.ttl)
        nothing(await long.get(ask("Kept for a long time?")), "at 1.125 times its time")

    @requires("shared", "policy")
    @on_caches()
    async def test_a_strict_instance_finds_nothing_sampled(self, trial: Trial) -> None:
        """Though another instance of the namespace, which may keep sampled answers, has kept one.

        Usual causes: the policy looked at when answers are kept, and not when they are found.
        """
        free = await trial.open(cache_sampled=True)
        strict = await trial.open(cache_sampled=False)
        for out in offered(WAYS_OUT, self.capabilities):
            sampled, greedy = (ask(f"Out by {out}?", temperature=t) for t in (1.0, 0.0))
            for request in (sampled, greedy):
                await free.set(request, reply("kept"))
                same(await find(free, out, request), reply("kept"), f"out by {out}")
            nothing(await find(strict, out, sampled), f"sampled, out by {out}")
            same(await find(strict, out, greedy), reply("kept"), f"not sampled, out by {out}")

    @requires("shared", "shared flight")
    @on_caches()
    async def test_equal_requests_to_several_instances_compute_once(self, trial: Trial) -> None:
        """All that come while one of them computes wait for it.

        Usual causes: a table of flights in each instance.
        """
        caches, compute = [await trial.open() for _ in range(3)], Computation(held=True)
        ways = [_asking(caches[0], compute)]
        await compute.begun.wait()
        ways += [_asking(cache, compute) for cache in caches * 3]
        for cache in caches:
            await others_have_come(cache)
        compute.go()
        for answer in await all_of(ways):
            same(answer, reply("computed 1"))
        assert compute.calls == 1, f"{len(ways)} equal requests: {compute.calls} computations"
        others = [_asking(cache, Computation()) for cache in caches]
        for answer in await all_of(others):
            same(answer, reply("computed 1"), "when it is kept")

    @requires("shared", "shared flight")
    @on_caches(each={"end": ("fails", "is cancelled")})
    async def test_an_instance_that_ends_leaves_no_other_waiting(
        self, trial: Trial, end: str
    ) -> None:
        """Who waits for another instance gets its error, or an answer that is computed anew; and
        other requests do not wait.

        Usual causes: a lock in the store that only success takes away; one lock for all requests.
        """
        first, second = await trial.open(), await trial.open()
        failing = Computation(Unavailable("the model is down"), held=True)
        leader = _asking(first, failing)
        await failing.begun.wait()
        follower = _asking(second, Computation())
        await others_have_come(second)
        other = asyncio.create_task(second.get_or_compute(ask("Other?"), Computation()))
        try:
            (answer,) = await all_of([other])
            same(answer, reply("computed 1"), "another request, meanwhile")
            if end == "is cancelled":
                leader.cancel()
                await others_have_come(second)
        finally:
            failing.go()  # also a computation that goes on without the one who began it
        await asyncio.wait([leader])
        (outcome,) = await all_of([follower])
        if not isinstance(outcome, Unavailable):
            same(outcome, reply("computed 1"), f"the other instance {end}")
        (answer,) = await all_of([_asking(second, Computation())])
        same(answer, reply("computed 1"), f"after the other instance {end}")

    async def _check_cleared(
        self, trial: Trial, caches: Sequence[Any], asked: Sequence[Request]
    ) -> None:
        for cache in caches:
            for out in offered(WAYS_OUT, self.capabilities):
                for request in asked:
                    look = functools.partial(find, cache, out, request)
                    found = await self.fresh(trial, look, None)
                    nothing(found, f"out by {out}, after the namespace was cleared")


def _asking(cache: Any, compute: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(cache.get_or_compute(changed(BASE), compute))
