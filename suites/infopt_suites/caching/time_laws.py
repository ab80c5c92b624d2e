"""When entries end: by their time to live, and by the room that there is."""

from __future__ import annotations

from ..base import requires
from .requests import BASE, ask, reply
from .trial import Caches, CacheSuite, Trial, nothing, same


class TimeLaws(CacheSuite):
    topic = ""

    @requires("ttl")
    def test_an_entry_ends_on_time(self, caches: Caches) -> None:
        """It is found until its time to live is over, and not afterwards.

        Usual causes: no expiry set, milliseconds for seconds, the clock of another machine.
        """

        async def law(trial: Trial) -> None:
            cache = await trial.open()
            await cache.set(BASE, reply("kept"))
            await trial.advance(0.75 * self.ttl)
            same(await cache.get(BASE), reply("kept"), "at 0.75 of its time")
            await trial.advance(0.5 * self.ttl)
            nothing(await cache.get(BASE), "at 1.25 times its time")
            await cache.set(BASE, reply("kept again"))
            same(await cache.get(BASE), reply("kept again"), "kept again after its end")

        caches.check(law, ttl=self.ttl)

    @requires("ttl")
    def test_hits_do_not_make_it_live_longer(self, caches: Caches) -> None:
        """The answer that is asked for most would never be renewed.

        Usual causes: ``EXPIRE`` or ``GETEX`` with every hit; an entry that is written again when it
        is found.
        """

        async def law(trial: Trial) -> None:
            cache = await trial.open()
            await cache.set(BASE, reply("kept"))
            for _ in range(3):
                await trial.advance(0.25 * self.ttl)
                same(await cache.get(BASE), reply("kept"))
            await trial.advance(0.5 * self.ttl)
            nothing(await cache.get(BASE), "at 1.25 times its time, found three times before")

        caches.check(law, ttl=self.ttl)

    @requires("ttl")
    def test_an_answer_kept_anew_lives_anew(self, caches: Caches) -> None:
        """Its time begins when it is written, whatever was there before.

        Usual causes: an expiry that is set only for new keys (``EXPIRE NX``, ``SETNX``).
        """

        async def law(trial: Trial) -> None:
            cache = await trial.open()
            await cache.set(BASE, reply("old"))
            await trial.advance(0.75 * self.ttl)
            await cache.set(BASE, reply("new"))
            await trial.advance(0.75 * self.ttl)
            same(await cache.get(BASE), reply("new"), "at 0.75 of its time")
            await trial.advance(0.5 * self.ttl)
            nothing(await cache.get(BASE), "at 1.25 times its time")

        caches.check(law, ttl=self.ttl)

    @requires("ttl")
    def test_each_entry_has_its_own_time(self, caches: Caches) -> None:
        """One that is kept later ends later, and its neighbours with their own times.

        Usual causes: one expiry for all, such as that of the hash or file that they are in.
        """

        async def law(trial: Trial) -> None:
            cache = await trial.open()
            for number in range(4):
                await cache.set(ask(f"Question {number}?"), reply(f"answer {number}"))
                await trial.advance(0.375 * self.ttl)
            # Now at 1.5, 1.125, 0.75 and 0.375 of their times.
            for number in (0, 1):
                nothing(await cache.get(ask(f"Question {number}?")), f"question {number}")
            for number in (2, 3):
                same(await cache.get(ask(f"Question {number}?")), reply(f"answer {number}"))

        caches.check(law, ttl=self.ttl)

    @requires("ttl")
    def test_without_a_time_to_live_nothing_ends(self, caches: Caches) -> None:
        """Where none is asked for.

        Usual causes: a default that nobody can turn off, None taken for 0.
        """

        async def law(trial: Trial) -> None:
            cache = await trial.open()
            await cache.set(BASE, reply("kept"))
            await trial.advance(self.ttl if self.real_time else 30 * 86400.0)
            same(await cache.get(BASE), reply("kept"))

        caches.check(law, ttl=None)

    @requires("ttl", "shared")
    def test_other_instances_keep_to_its_end(self, caches: Caches) -> None:
        """What another instance has read near its end does not begin to live again there.

        Usual causes: a layer in memory that is filled from the store with a whole time to live.
        """

        async def law(trial: Trial) -> None:
            first, second = await trial.open(), await trial.open()
            await first.set(BASE, reply("kept"))
            await trial.advance(0.75 * self.ttl)
            for cache in (second, first):
                same(await cache.get(BASE), reply("kept"), "at 0.75 of its time")
            await trial.advance(0.5 * self.ttl)
            for cache in (second, first, await trial.open()):
                nothing(await cache.get(BASE), "at 1.25 times its time")

        caches.check(law, ttl=self.ttl)

    @requires("capacity")
    def test_no_more_is_kept_than_there_is_room_for(self, caches: Caches) -> None:
        """And what was kept last is there; what went is a miss and nothing else.

        Usual causes: eviction from one of two stores, so that the other finds what is no longer
        there; room for one more or less; an entry that is evicted as soon as it is kept.
        """
        for capacity in (1, 2, 5):

            async def law(trial: Trial, capacity: int = capacity) -> None:
                cache = await trial.open()
                asked = [ask(f"Question {number}?") for number in range(3 * capacity)]
                for number, request in enumerate(asked):
                    await cache.set(request, reply(f"answer {number}"))
                    same(await cache.get(request), reply(f"answer {number}"), "the newest")
                    found = [await cache.get(each) for each in asked[: number + 1]]
                    kept = [n for n, answer in enumerate(found) if answer is not None]
                    room = min(capacity, number + 1)
                    assert len(kept) == room, f"{len(kept)} entries where {room} have room"
                    for each in kept:
                        same(found[each], reply(f"answer {each}"))

            caches.check(law, capacity=capacity)

    @requires("capacity")
    def test_keeping_an_answer_anew_takes_no_room(self, caches: Caches) -> None:
        """Two requests have room for two, however often they are kept.

        Usual causes: a list of ages with several entries for one key.
        """

        async def law(trial: Trial) -> None:
            cache = await trial.open()
            for number in range(7):
                await cache.set(ask("First?"), reply(f"first {number}"))
            await cache.set(ask("Second?"), reply("second"))
            same(await cache.get(ask("First?")), reply("first 6"))
            same(await cache.get(ask("Second?")), reply("second"))

        caches.check(law, capacity=2)

    @requires("capacity", "shared")
    def test_a_store_that_is_too_full_can_be_opened(self, caches: Caches) -> None:
        """It holds more than the room of the instance that opens it, which then keeps to its own.

        Usual causes: entries loaded before there is anything that evicts.
        """

        async def law(trial: Trial) -> None:
            asked = [ask(f"Question {number}?") for number in range(8)]
            writer = await trial.open(capacity=7)
            for number, request in enumerate(asked[:7]):
                await writer.set(request, reply(f"answer {number}"))
            await trial.close(writer)
            reader = await trial.open(capacity=3)
            for number, request in enumerate(asked[:7]):
                found = await reader.get(request)
                if found is not None:
                    same(found, reply(f"answer {number}"))
            await reader.set(asked[7], reply("answer 7"))
            same(await reader.get(asked[7]), reply("answer 7"), "the newest")
            kept = [await reader.get(request) for request in asked]
            room = sum(answer is not None for answer in kept)
            assert room <= 3, f"{room} entries where 3 have room"

        caches.check(law)
