"""The response cache: what it keeps and for how long, and that it never fails a request."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import async_solipsism
import pytest
from caching_cases import BrokenStore, Clock, Model, on_redis, request
from infopt_reference.caching import (
    Answer,
    ChatRequest,
    MemoryStore,
    RedisStore,
    ResponseCache,
    Store,
)
from infopt_reference.caching.keys import VERSION

from pytest_infopt.fixtures.redis_server import RedisServer

OPERATIONS = ("get", "get_many", "set", "increment", "numbers", "delete_prefix")


def run(scenario: Awaitable[Any]) -> Any:
    """On virtual time: a wait that nothing ends is an error."""
    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        return runner.run(scenario)  # type: ignore[arg-type]  # any coroutine


@pytest.fixture(params=["memory", "redis"])
def on_store(request: pytest.FixtureRequest) -> Callable[[Callable[[Store], Awaitable[Any]]], Any]:
    """Runs a scenario on a store, in memory or on the server."""
    if request.param == "memory":
        return lambda scenario: asyncio.run(scenario(MemoryStore()))
    url = request.getfixturevalue("redis_server").url
    return lambda scenario: on_redis(url, scenario)


def test_an_equal_request_gets_the_stored_answer(on_store: Any) -> None:
    async def scenario(store: Store) -> None:
        cache, model = ResponseCache(store, "equal"), Model()
        await cache.clear()
        first = await cache.get_or_compute(request(), model)
        assert await cache.get_or_compute(request(), model) == first == await cache.get(request())
        assert await ResponseCache(store, "equal").get(request()) == first
        assert await cache.get(request("another")) is None
        assert await ResponseCache(store, "equal2").get(request()) is None
        assert model.calls == 1

    on_store(scenario)


def test_an_entry_ends_at_its_time_whoever_hits_it() -> None:
    clock = Clock()

    async def scenario() -> None:
        cache = ResponseCache(MemoryStore(clock), ttl=10)
        await cache.set(request(), Answer("x"))
        await cache.set(request("b"), Answer("x"), ttl=20)
        for _ in range(3):
            clock.now += 3
            assert await cache.get(request()) == Answer("x")
        clock.now += 1
        assert await cache.get(request()) is None
        assert await cache.get(request("b")) == Answer("x")
        clock.now += 10
        assert await cache.get(request("b")) is None

    run(scenario())


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf")])
def test_a_ttl_that_is_none_is_refused(ttl: float) -> None:
    with pytest.raises(ValueError, match="None for entries without end"):
        ResponseCache(MemoryStore(), ttl=ttl)
    with pytest.raises(ValueError, match="None for entries without end"):
        run(ResponseCache(MemoryStore()).set(request(), Answer("x"), ttl=ttl))


@pytest.mark.parametrize("fields", [{"temperature": 0.7}, {"temperature": None}])
def test_sampled_answers_are_kept_only_on_request(fields: dict[str, Any]) -> None:
    async def scenario() -> None:
        store, sampled = MemoryStore(), request(**fields)
        cache, model = ResponseCache(store), Model()
        answers = await asyncio.gather(*[cache.get_or_compute(sampled, model) for _ in range(3)])
        assert [answer.content for answer in answers] == ["answer 1", "answer 2", "answer 3"]
        await cache.set(sampled, Answer("x"))
        assert not store._values
        keeping = ResponseCache(store, cache_sampled=True)
        await keeping.set(sampled, Answer("x"))
        assert await keeping.get(sampled) == Answer("x")
        assert await cache.get(sampled) is None  # whatever others have kept

    run(scenario())


@pytest.mark.parametrize(
    "answer",
    [Answer(""), Answer(None), Answer("cut", finish_reason="length"), Answer("x", extra={1: 2})],
)
def test_answers_that_are_not_whole_or_no_json_are_returned_and_not_kept(answer: Answer) -> None:
    async def scenario() -> None:
        cache, calls = ResponseCache(MemoryStore()), 0

        async def compute() -> Answer:
            nonlocal calls
            calls += 1
            return answer

        assert await cache.get_or_compute(request(), compute) == answer
        assert await cache.get_or_compute(request(), compute) == answer
        assert calls == 2

    run(scenario())


def test_a_failure_reaches_the_caller_and_is_not_kept() -> None:
    async def scenario() -> None:
        cache, model = ResponseCache(MemoryStore()), Model(fails=1)
        with pytest.raises(RuntimeError, match="call 1 fails"):
            await cache.get_or_compute(request(), model)
        assert await cache.get(request()) is None
        assert (await cache.get_or_compute(request(), model)).content == "answer 2"

    run(scenario())


def test_a_thousand_equal_requests_compute_once(on_store: Any) -> None:
    async def scenario(store: Store) -> None:
        cache, model = ResponseCache(store, "stampede"), Model(delay=0.01)
        await cache.clear()
        answers = await asyncio.gather(
            *[cache.get_or_compute(request(), model) for _ in range(1000)]
        )
        assert model.calls == 1
        assert {answer.content for answer in answers} == {"answer 1"}
        counted = await cache.counters()
        assert counted["writes"] == 1
        assert counted["misses"] + counted.get("hits", 0) == 1000
        assert counted["joined"] + counted.get("hits", 0) == 999  # later look-ups may be hits
        assert counted["saved_prompt_tokens"] == 999 * 3
        assert counted["saved_completion_tokens"] == 999 * 5

    on_store(scenario)


def test_what_a_caller_does_to_an_answer_reaches_nobody_else() -> None:
    async def scenario() -> None:
        cache, made = ResponseCache(MemoryStore()), Answer("x", [{"a": [1]}], extra={"b": [2]})

        async def compute() -> Answer:
            await asyncio.sleep(1)
            return made

        async def ask() -> list[Any]:
            answer = await cache.get_or_compute(request(), compute)
            assert answer.tool_calls is not None
            seen = [list(answer.tool_calls[0]["a"]), list(answer.extra["b"])]
            answer.tool_calls[0]["a"].append(9)
            answer.extra["b"].clear()
            return seen

        assert await asyncio.gather(*[ask() for _ in range(4)]) == [[[1], [2]]] * 4
        assert [await ask() for _ in range(2)] == [[[1], [2]]] * 2
        assert made == Answer("x", [{"a": [1]}], extra={"b": [2]})
        await cache.set(request("b"), made)
        made.extra["b"].append(3)
        assert (await cache.get(request("b"))).extra == {"b": [2]}  # type: ignore[union-attr]

    run(scenario())


def test_counters_lose_nothing_over_many_caches(on_store: Any) -> None:
    async def scenario(store: Store) -> None:
        caches = [ResponseCache(store, "counted") for _ in range(4)]
        await caches[0].clear()
        await caches[0].set(request(), Answer("x", prompt_tokens=7, completion_tokens=2))

        async def use(cache: ResponseCache) -> None:
            await asyncio.gather(*[cache.get(request()) for _ in range(100)])
            await cache.get(request("missing"))
            await cache.close()

        await asyncio.gather(*[use(cache) for cache in caches])
        expected = {
            "hits": 400,
            "misses": 4,
            "writes": 1,
            "saved_prompt_tokens": 2800,
            "saved_completion_tokens": 800,
        }
        assert [await cache.counters() for cache in caches] == [expected] * 4

    on_store(scenario)


def test_counts_reach_the_store_by_themselves() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        cache = ResponseCache(store)
        await cache.get(request())
        await asyncio.sleep(0.06)
        assert await ResponseCache(store).counters() == {"misses": 1}

    run(scenario())


def test_counts_wait_for_a_store_that_is_down(caplog: pytest.LogCaptureFixture) -> None:
    store = BrokenStore("increment", "numbers")
    cache = ResponseCache(store)

    async def scenario() -> None:
        for _ in range(3):
            await cache.get(request())
            await asyncio.sleep(1)
        assert await cache.counters() == {"misses": 3}
        store.operations.clear()
        assert await cache.counters() == {"misses": 3}
        assert await ResponseCache(store).counters() == {"misses": 3}

    run(scenario())
    assert "wait for their store" in caplog.text
    store.operations.clear()
    run(cache.get(request()))  # a loop later
    assert run(cache.counters()) == {"misses": 4}


@pytest.mark.parametrize("down", [*[(name,) for name in OPERATIONS], OPERATIONS])
def test_a_store_that_is_down_fails_no_request(
    down: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        cache, model = ResponseCache(BrokenStore(*down)), Model()
        for number in range(1, 3):
            answer = await cache.get_or_compute(request(), model)
            assert answer.content == f"answer {number if {'get', 'set'} & {*down} else 1}"
        await cache.set(request(), Answer("x"))
        await cache.get(request())
        many = await cache.get_or_compute_many([request("b")], batch(model))
        assert len(many) == 1
        await cache.counters()
        await cache.clear()
        await cache.close()

    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert "the store is down" in caplog.text


def test_a_request_without_a_key_goes_past_the_cache(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        cache, model = ResponseCache(MemoryStore()), Model()
        odd = request(logit_bias={1: 2})
        assert (await cache.get_or_compute(odd, model)).content == "answer 1"
        await cache.set(odd, Answer("x"))
        assert await cache.get(odd) is None

    run(scenario())
    assert "goes past the cache" in caplog.text


def test_entries_that_are_not_what_was_written_are_misses(
    on_store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(store: Store) -> None:
        cache, model = ResponseCache(store, "corrupt"), Model()
        await cache.clear()
        await cache.set(request("b"), Answer("of b"))
        others = await store.get(cache.key(request("b"))) or b""
        for value in (b"", b"junk", others[:-1], others):
            await store.set(cache.key(request()), value)
            assert await cache.get(request()) is None
        assert (await cache.counters())["corrupt"] == 4
        # The next answer replaces what could not be read.
        assert (await cache.get_or_compute(request(), model)).content == "answer 1"
        assert (await cache.get(request())) is not None

    on_store(scenario)
    assert caplog.text.count("is not read") == 5


def test_a_value_of_another_type_is_a_miss(redis_server: RedisServer) -> None:
    async def scenario(store: RedisStore) -> None:
        cache, model = ResponseCache(store, "types"), Model()
        await (await store.client()).lpush(cache.key(request()), b"x")
        assert (await cache.get_or_compute(request(), model)).content == "answer 1"
        assert (await cache.get(request())) is not None

    on_redis(redis_server.url, scenario)


def test_clearing_removes_all_own_keys_and_no_others(on_store: Any) -> None:
    async def scenario(store: Store) -> None:
        cache, neighbour = ResponseCache(store, "a"), ResponseCache(store, "a:answer")
        many = [request(str(number)) for number in range(1500)]
        await asyncio.gather(*[cache.set(one, Answer("x")) for one in many])
        await neighbour.set(request(), Answer("y"))
        await store.set("answer", b"foreign")
        await store.set("{a}:answering", b"foreign")
        old = cache.key(request()).replace(f":v{VERSION}:", ":v0:")
        await store.set(old, b"of an older version")
        await cache.clear()
        assert [await cache.get(one) for one in many] == [None] * 1500
        assert await store.get(old) is None
        assert await neighbour.get(request()) == Answer("y")
        assert await store.get_many(["answer", "{a}:answering"]) == [b"foreign"] * 2
        await store.delete("answer", "{a}:answering")

    on_store(scenario)


def batch(model: Model, log: list[list[ChatRequest]] | None = None) -> Any:
    """A backend for many requests that echoes each one's prompt."""

    async def compute(requests: Sequence[ChatRequest]) -> list[Answer]:
        if log is not None:
            log.append(list(requests))
        await model()
        return [Answer(f"to {one.messages[0]['content']}") for one in requests]

    return compute


@pytest.mark.parametrize("mask", itertools.product([False, True], repeat=4))
def test_in_a_batch_each_request_gets_its_own_answer(mask: tuple[bool, ...]) -> None:
    async def scenario() -> None:
        cache = ResponseCache(MemoryStore())
        asked: list[list[ChatRequest]] = []
        requests = [request(str(number)) for number in range(4)]
        for one, cached in zip(requests, mask, strict=True):
            if cached:
                await cache.set(one, Answer(f"kept {one.messages[0]['content']}"))
        answers = await cache.get_or_compute_many(requests, batch(Model(), asked))
        expected = [f"{'kept' if cached else 'to'} {n}" for n, cached in enumerate(mask)]
        assert [answer.content for answer in answers] == expected
        assert asked == (
            [] if all(mask) else [[r for r, c in zip(requests, mask, strict=True) if not c]]
        )
        assert [(await cache.get(one)).content for one in requests] == expected  # type: ignore[union-attr]

    run(scenario())


def test_in_a_batch_equal_requests_are_computed_once_and_sampled_ones_each() -> None:
    async def scenario() -> None:
        cache, asked = ResponseCache(MemoryStore()), list[list[ChatRequest]]()
        sampled = request("s", temperature=1)
        requests = [request("a"), sampled, request("a"), sampled, request("b")]
        answers = await cache.get_or_compute_many(requests, batch(Model(), asked))
        assert [answer.content for answer in answers] == ["to a", "to s", "to a", "to s", "to b"]
        assert asked == [[request("a"), sampled, sampled, request("b")]]
        answers[0].extra["changed"] = True
        assert answers[2].extra == {}
        assert await cache.get_or_compute_many([], batch(Model(), asked)) == []

    run(scenario())


def test_a_batch_with_an_answer_too_few_is_refused_and_nothing_kept() -> None:
    async def scenario() -> None:
        cache = ResponseCache(MemoryStore())

        async def compute(requests: Sequence[ChatRequest]) -> list[Answer]:
            return [Answer("x")]

        with pytest.raises(ValueError, match="1 answers came for 2 requests"):
            await cache.get_or_compute_many([request("a"), request("b")], compute)
        assert await cache.get(request("a")) is None

    run(scenario())


def test_a_hit_is_one_get_of_the_server(redis_server: RedisServer) -> None:
    async def scenario(store: RedisStore) -> None:
        async with ResponseCache(store, "one get") as cache:
            await cache.set(request(), Answer("x"))
            client = await store.client()
            await client.config_resetstat()
            for _ in range(10):
                await cache.get_or_compute(request(), Model())
            used = await client.info("commandstats")
            assert int(used["cmdstat_get"]["calls"]) == 10
            assert used.keys() <= {"cmdstat_get", "cmdstat_info", "cmdstat_config|resetstat"}

    on_redis(redis_server.url, scenario)
