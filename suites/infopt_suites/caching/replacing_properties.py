"""A request may get another answer, which then takes the old one's place in every respect."""

from __future__ import annotations

from hypothesis import strategies as st

from ..base import requires
from ..properties import for_all
from .protocol import Answer
from .requests import BASE, ask, changed, reply
from .trial import Caches, CacheSuite, Trial, nothing, on_caches, same


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

    def test_any_sequence_agrees_with_a_dictionary(self, caches: Caches) -> None:
        """Keeping and asking in any order, on a few requests that differ in little.

        Usual causes: all of the other properties', together.
        """
        asked = [BASE, changed(BASE, model="small-70b"), ask("And?"), ask("And?", seed=7)]
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
