"""A full cache drops an entry, which is a miss from then on."""

from __future__ import annotations

from ..base import requires
from .requests import BASE, ask, reply
from .trial import Caches, CacheSuite, Trial, nothing, on_caches, same


class RoomProperties(CacheSuite):
    topic = ""

    @requires("capacity")
    def test_no_more_is_kept_than_there_is_room_for(self, caches: Caches) -> None:
        """And what was kept last is there; what went is a miss and nothing else.

        Usual causes: eviction from one of two stores, so that the other finds what is no longer
        there; room for one more or less; an entry that is evicted as soon as it is kept.
        """
        for capacity in (1, 2, 5):

            async def holds(trial: Trial, capacity: int = capacity) -> None:
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

            caches.check(holds, capacity=capacity)

    @requires("capacity")
    @on_caches(capacity=2)
    async def test_keeping_an_answer_anew_takes_no_room(self, trial: Trial) -> None:
        """Two requests have room for two, however often they are kept.

        Usual causes: a list of ages with several entries for one key, room made before it is known
        whether any is needed.
        """
        cache = await trial.open()
        for number in range(7):
            await cache.set(ask("First?"), reply(f"first {number}"))
        await cache.set(ask("Second?"), reply("second"))
        same(await cache.get(ask("First?")), reply("first 6"))
        same(await cache.get(ask("Second?")), reply("second"))
        await cache.set(ask("Second?"), reply("second again"))
        same(await cache.get(ask("First?")), reply("first 6"), "the cache was full")
        same(await cache.get(ask("Second?")), reply("second again"))

    @requires("capacity")
    @on_caches()
    async def test_no_room_is_no_endless_one(self, trial: Trial) -> None:
        """A capacity of 0 is refused, or nothing is kept.

        Usual causes: ``if capacity`` for ``if capacity is not None``.
        """
        try:
            cache = await trial.open(capacity=0)
            await cache.set(BASE, reply("kept"))
        except ValueError:
            return  # refused
        nothing(await cache.get(BASE), "kept where there is no room")

    @requires("capacity", "shared")
    @on_caches()
    async def test_a_store_that_is_too_full_can_be_opened(self, trial: Trial) -> None:
        """It holds more than the room of the instance that opens it, which then keeps to its own.

        Usual causes: entries loaded before there is anything that evicts.
        """
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
