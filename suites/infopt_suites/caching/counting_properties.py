"""Hits and misses add up to the requests."""

from __future__ import annotations

import asyncio
from typing import Any

from ..base import requires
from .computing_properties import TOGETHER
from .counted import Computation
from .requests import BASE, ask, reply
from .trial import CacheSuite, Trial, on_caches


class CountingProperties(CacheSuite):
    topic = ""

    @requires("counters")
    @on_caches()
    async def test_counters_lose_nothing(self, trial: Trial) -> None:
        """Hits and misses add up to the look-ups, one after another and many at once.

        Usual causes: a counter that is read, raised and written; look-ups that fail counted twice
        or not at all; keeping an answer counted.
        """
        cache = await trial.open()
        await _check_counts(cache, 0, 0)
        await cache.set(BASE, reply("kept"))
        await cache.get(ask("Unknown?"))
        await cache.get(BASE)
        await _check_counts(cache, 1, 1)
        unknown = [ask(f"Question {number}?") for number in range(TOGETHER)]
        looked = [
            cache.get(each)
            for pair in zip(unknown, [BASE] * TOGETHER, strict=True)
            for each in pair
        ]
        await asyncio.gather(*looked)
        await _check_counts(cache, 1 + TOGETHER, 1 + TOGETHER)
        if "compute" in self.capabilities:
            await cache.get_or_compute(BASE, Computation())
            await cache.get_or_compute(ask("New?"), Computation())
            await _check_counts(cache, 2 + TOGETHER, 2 + TOGETHER)


async def _check_counts(cache: Any, hits: int, misses: int) -> None:
    counted = await cache.counters()
    found = counted["hits"], counted["misses"]
    assert found == (hits, misses), f"{found} hits and misses were counted, not {(hits, misses)}"
