"""Faults of a real server under the reference's caches: nothing raised, nothing wrong served."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
import redis
from infopt_reference.caching import Answer, ChatRequest, RedisStore, ResponseCache
from infopt_suites.caching.redis_proxy import RedisProxy

from pytest_infopt.fixtures.redis_server import PrivateRedisServer, find_executable

TIMEOUT = 0.5  # seconds that the store may take; the slow server takes twice that
COUNT = 30


@pytest.fixture
def server() -> Iterator[PrivateRedisServer]:
    running = PrivateRedisServer(find_executable(), ("--maxmemory-policy", "noeviction"))
    yield running
    running.close()


def request(number: int) -> ChatRequest:
    messages = [{"role": "user", "content": f"question {number}"}]
    return ChatRequest("model", messages, {"temperature": 0})


def answer(number: int, size: int = 1) -> Answer:
    return Answer(f"answer {number} " * size, prompt_tokens=1, completion_tokens=1)


def computing(number: int, size: int = 1) -> Callable[[], Awaitable[Answer]]:
    async def compute() -> Answer:
        return answer(number, size)

    return compute


async def ask_all(cache: ResponseCache, size: int = 1) -> None:
    """Every question gets its own answer."""
    for number in range(COUNT):
        found = await cache.get_or_compute(request(number), computing(number, size))
        assert found.content == answer(number, size).content


def test_a_server_killed_and_started_again_in_the_middle(server: PrivateRedisServer) -> None:
    async def run() -> None:
        cache = ResponseCache(RedisStore(server.url, TIMEOUT))
        await ask_all(cache)
        assert await cache.get(request(0)) == answer(0)
        server.kill()
        await ask_all(cache)  # from the model
        assert await cache.get(request(0)) is None
        server.start()
        await ask_all(cache)
        assert await cache.get(request(0)) == answer(0)
        await cache.close()

    asyncio.run(run())


def test_a_server_killed_while_many_ask_at_once(server: PrivateRedisServer) -> None:
    async def run() -> None:
        cache = ResponseCache(RedisStore(server.url, TIMEOUT))
        asking = [
            asyncio.create_task(cache.get_or_compute(request(n % 5), computing(n % 5)))
            for n in range(200)
        ]
        await asyncio.sleep(0)
        await asyncio.to_thread(server.kill)
        for number, found in enumerate(await asyncio.gather(*asking)):
            assert found.content == answer(number % 5).content
        await cache.close()

    asyncio.run(run())


def test_a_server_whose_memory_is_full(server: PrivateRedisServer) -> None:
    client = redis.Redis.from_url(server.url)
    used = int(client.info("memory")["used_memory"])
    client.config_set("maxmemory", used + 200_000)
    client.close()

    async def run() -> None:
        cache = ResponseCache(RedisStore(server.url, TIMEOUT))
        await ask_all(cache, size=5_000)
        kept = [await cache.get(request(number)) is not None for number in range(COUNT)]
        assert not all(kept), "the server's memory was not full"
        await ask_all(cache, size=5_000)
        await cache.close()

    asyncio.run(run())


def test_values_cut_short_are_misses(server: PrivateRedisServer) -> None:
    async def run() -> None:
        cache = ResponseCache(RedisStore(server.url, TIMEOUT))
        await ask_all(cache)
        client = redis.Redis.from_url(server.url)
        for key in client.scan_iter():
            if client.type(key) == b"string":
                value = client.get(key) or b""
                client.set(key, value[: len(value) // 2])
        client.close()
        assert [await cache.get(request(n)) for n in range(COUNT)] == [None] * COUNT
        await ask_all(cache)
        assert await cache.get(request(0)) == answer(0)
        await cache.close()

    asyncio.run(run())


def test_a_server_that_answers_after_a_second(server: PrivateRedisServer) -> None:
    async def run(proxy: RedisProxy) -> None:
        cache = ResponseCache(RedisStore(proxy.url, TIMEOUT))
        await ask_all(cache)
        proxy.delay = 2 * TIMEOUT
        for number in range(3):
            found = await cache.get_or_compute(request(number), computing(number))
            assert found.content == answer(number).content
        proxy.delay = 0.0
        await ask_all(cache)
        assert await cache.get(request(0)) == answer(0)
        await cache.close()

    with RedisProxy(server.url) as proxy:
        asyncio.run(run(proxy))
