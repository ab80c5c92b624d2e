"""cashews 7.6: an entry that is kept for 0 seconds is kept for ever.

Its memory takes ``expire=0`` for no end at all. Who computes a time to live that has run out keeps
an answer without end. No public thread found. Breaks
ResponseCacheSuite.test_no_time_to_live_is_no_long_one.
"""

from __future__ import annotations

import asyncio

import pytest
from recorded import recorded

cashews = recorded("cashews", "cashews>=7.6,<7.7")


@pytest.mark.xfail(strict=True, reason="cashews takes a time to live of 0 for none")
def test_what_is_kept_for_no_time_is_over_at_once() -> None:
    async def kept_for(seconds: float) -> object:
        cache = cashews.Cache()
        cache.setup("mem://", check_interval=0)
        await cache.set("key", "answer", expire=seconds)
        await asyncio.sleep(0.05)
        return await cache.get("key")

    assert asyncio.run(kept_for(0.01)) is None  # an end is kept where there is one
    assert asyncio.run(kept_for(0)) is None
