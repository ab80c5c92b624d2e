"""A request may get another answer, which then takes the old one's place in every respect."""

from __future__ import annotations

import functools

from hypothesis import strategies as st

from ..base import requires
from ..properties import for_all
from .protocol import Answer
from .requests import BASE, FIELDS, ask, reply
from .trial import Caches, CacheSuite, Trial, nothing, on_caches, same
from .ways import WAYS_OUT, find, offered


class ReplacingProperties(CacheSuite):
    topic = ""

    @on_caches()
    async def test_a_later_answer_replaces_the_earlier(self, trial: Trial) -> None:
        """Longer or shorter, as often as one likes.

        Usual causes: written only if it is not there, a second entry that is found after the first.
        """
        cache = await trial.open()
        await cache.set(ask("Another?"), reply("another"))
        for content in ("one", "two" * 1000, "three"):
            kept = reply(content)
            await cache.set(BASE, kept)
            same(await cache.get(BASE), kept)
        same(await cache.get(ask("Another?")), reply("another"))

    @requires("shared")
    @on_caches()
    async def test_other_instances_see_a_later_answer(self, trial: Trial) -> None:
        """After ``staleness_seconds`` at the latest, by any way out, whoever replaced the answer.

        Usual causes: a layer in memory that nobody tells, or that outlives what is declared.
        """
        first, second = await trial.open(), await trial.open()
        for out in offered(WAYS_OUT, self.capabilities):
            request = ask(f"Out by {out}?")
            for number, (writer, reader) in enumerate(((first, second), (second, first)) * 2):
                wanted = reply(f"answer {number}")
                await writer.set(request, wanted)
                look = functools.partial(find, reader, out, request)
                found = await self.fresh(trial, look, wanted)
                same(found, wanted, f"kept by another instance, out by {out}")

    def test_any_sequence_agrees_with_a_dictionary(self, caches: Caches) -> None:
        """Keeping and asking in any order, on a few requests that differ in little.

        Usual causes: all of the other properties', together.
        """
        others = [name for name in ("model", "seed", "tenant", "top_p") if name in self.fields]
        values = {name: FIELDS[name][1] for name in others[:2]}
        asked = [BASE, ask("And?"), *(ask("And?", **{name: values[name]}) for name in values)]
        step = st.tuples(st.booleans(), st.integers(0, len(asked) - 1))

        def law_of(steps: list[tuple[bool, int]]) -> None:
            async def holds(trial: Trial) -> None:
                cache = await trial.open()
                kept: dict[int, Answer] = {}
                for number, (keep, which) in enumerate(steps):
                    if keep:
                        kept[which] = reply(f"answer {number}")
                        await cache.set(asked[which], kept[which])
                    elif which in kept:
                        same(await cache.get(asked[which]), kept[which], f"request {which}")
                    else:
                        nothing(await cache.get(asked[which]), f"request {which}")

            caches.check(holds)

        for_all(law_of, st.lists(step, max_size=12), examples=25)

    @requires("ttl")
    @on_caches(mortal=True)
    async def test_an_answer_kept_anew_lives_anew(self, trial: Trial) -> None:
        """Its time begins when it is written, whatever was there before.

        Usual causes: an expiry that is set only for new keys (``EXPIRE NX``, ``SETNX``).
        """
        cache = await trial.open()
        asked = BASE, ask("Nobody asks this?")
        for content in ("old", "new"):
            for request in asked:
                await cache.set(request, reply(content))
            await trial.advance(0.75 * self.ttl)
        same(await cache.get(BASE), reply("new"), "at 0.75 of its time")
        await trial.advance(0.5 * self.ttl)
        nothing(await cache.get(asked[1]), "at 1.25 times its time")

    @requires("ttl per call")
    @on_caches(mortal=True)
    async def test_a_time_to_live_of_a_call_is_that_of_its_entry(self, trial: Trial) -> None:
        """Longer or shorter than the cache's own, for this entry and as long as it is not kept
        anew.

        Usual causes: a time to live that is taken for the cache's from then on, or that is never
        more than it.
        """
        cache = await trial.open()
        short, long, plain = (ask(f"{word}?") for word in ("Short", "Long", "Plain"))
        await cache.set(short, reply("short"), ttl=0.5 * self.ttl)
        await cache.set(long, reply("long"), ttl=2 * self.ttl)
        await cache.set(plain, reply("plain"))
        await trial.advance(0.75 * self.ttl)
        nothing(await cache.get(short), "kept for half of the time, at 0.75")
        same(await cache.get(plain), reply("plain"), "kept for the time, at 0.75")
        await cache.set(short, reply("again"))
        await trial.advance(0.5 * self.ttl)
        nothing(await cache.get(plain), "kept for the time, at 1.25")
        same(await cache.get(long), reply("long"), "kept for twice the time, at 1.25")
        same(await cache.get(short), reply("again"), "kept anew for the time, at 0.5")
        await trial.advance(self.ttl)
        nothing(await cache.get(long), "kept for twice the time, at 2.25")
        nothing(await cache.get(short), "kept anew for the time, at 1.5")
