"""When entries end: by their time to live, and by the room that there is."""

from __future__ import annotations

from ..base import requires
from .requests import BASE, ask, reply
from .trial import CacheSuite, Trial, nothing, on_caches, same


class TimeProperties(CacheSuite):
    topic = ""

    @requires("ttl")
    @on_caches(mortal=True)
    async def test_an_entry_ends_on_time(self, trial: Trial) -> None:
        """It is found until its time to live is over, and not afterwards.

        Usual causes: no expiry set, milliseconds for seconds, the clock of another machine.
        """
        cache = await trial.open()
        await cache.set(BASE, reply("kept"))
        await cache.set(ask("Nobody asks this?"), reply("kept"))
        await trial.advance(0.75 * self.ttl)
        same(await cache.get(BASE), reply("kept"), "at 0.75 of its time")
        await trial.advance(0.5 * self.ttl)
        nothing(await cache.get(ask("Nobody asks this?")), "at 1.25 times its time")
        await trial.advance(self.ttl)  # for a hit, which is another property's matter
        await cache.set(BASE, reply("kept again"))
        same(await cache.get(BASE), reply("kept again"), "kept again after its end")

    @requires("ttl")
    @on_caches(mortal=True)
    async def test_hits_do_not_make_it_live_longer(self, trial: Trial) -> None:
        """The answer that is asked for most would never be renewed.

        Usual causes: ``EXPIRE`` or ``GETEX`` with every hit; an entry that is written again when it
        is found.
        """
        cache = await trial.open()
        await cache.set(BASE, reply("kept"))
        for _ in range(3):
            await trial.advance(0.25 * self.ttl)
            same(await cache.get(BASE), reply("kept"))
        await trial.advance(0.5 * self.ttl)
        nothing(await cache.get(BASE), "at 1.25 times its time, found three times before")

    @requires("ttl")
    @on_caches(mortal=True)
    async def test_each_entry_has_its_own_time(self, trial: Trial) -> None:
        """One that is kept later ends later, and its neighbours with their own times.

        Usual causes: one expiry for all, such as that of the hash or file that they are in.
        """
        cache = await trial.open()
        for number in range(4):
            await cache.set(ask(f"Question {number}?"), reply(f"answer {number}"))
            await trial.advance(0.375 * self.ttl)
        # Now at 1.5, 1.125, 0.75 and 0.375 of their times.
        for number in (0, 1):
            nothing(await cache.get(ask(f"Question {number}?")), f"question {number}")
        for number in (2, 3):
            same(await cache.get(ask(f"Question {number}?")), reply(f"answer {number}"))

    @requires("ttl")
    @on_caches(ttl=None)
    async def test_without_a_time_to_live_nothing_ends(self, trial: Trial) -> None:
        """Where none is asked for.

        Usual causes: a default that nobody can turn off, None taken for 0.
        """
        cache = await trial.open()
        await cache.set(BASE, reply("kept"))
        await trial.advance(self.ttl if self.real_time else 30 * 86400.0)
        same(await cache.get(BASE), reply("kept"))

    @requires("ttl")
    @on_caches()
    async def test_no_time_to_live_is_no_long_one(self, trial: Trial) -> None:
        """A time to live of 0 is refused, or what is kept with it is over at once.

        Usual causes: ``if ttl`` for ``if ttl is not None``, so that 0 is for ever.
        """
        try:
            cache = await trial.open(ttl=0.0)
            await cache.set(BASE, reply("kept"))
        except ValueError:
            return  # refused
        await trial.advance(1.0)
        nothing(await cache.get(BASE), "a second after it was kept for 0 seconds")

    @requires("ttl", "shared")
    @on_caches(mortal=True)
    async def test_other_instances_keep_to_its_end(self, trial: Trial) -> None:
        """What another instance has read near its end does not begin to live again there.

        Usual causes: a layer in memory that is filled from the store with a whole time to live.
        """
        first, second = await trial.open(), await trial.open()
        await first.set(BASE, reply("kept"))
        await trial.advance(0.75 * self.ttl)
        for cache in (second, first):
            same(await cache.get(BASE), reply("kept"), "at 0.75 of its time")
        await trial.advance(0.5 * self.ttl)
        for cache in (second, first, await trial.open()):
            nothing(await cache.get(BASE), "at 1.25 times its time")
