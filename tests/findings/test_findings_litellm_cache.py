"""litellm 1.110: a hit of the local cache is the kept object itself.

Who changes an answer that came from the cache changes it for everybody after.
"""

from __future__ import annotations

import asyncio

import pytest

caching = pytest.importorskip("litellm.caching.caching")
REQUEST = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def test_a_callers_change_reaches_the_next_caller() -> None:
    async def second_answer() -> object:
        cache = caching.Cache(type="local")
        await cache.async_add_cache({"content": ["kept"]}, **REQUEST)
        first = await cache.async_get_cache(**REQUEST)
        first["content"].append("changed")
        return await cache.async_get_cache(**REQUEST)

    assert asyncio.run(second_answer()) == {"content": ["kept", "changed"]}
