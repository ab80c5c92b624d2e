"""The semantic cache: which questions hit, in which contexts, and that store and index agree."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import async_solipsism
import numpy as np
import pytest
from caching_cases import BrokenStore, Clock, Model, on_redis, request
from infopt_reference.caching import Answer, MemoryStore, RedisStore, SemanticCache, Store

from pytest_infopt.fixtures.redis_server import RedisServer

ANGLES = {"north": 0.0, "also north": 0.0, "near north": 10.0, "nearly east": 80.0, "east": 90.0}
COS_10 = float(np.cos(np.radians(10.0)))


class Compass:
    """Directions in a plane; a hundred numbers long, so that their length is not 1."""

    name = "compass"
    dimension = 2

    def __init__(self, **odd: Any) -> None:
        self.odd = odd
        self.calls = 0

    async def embed(self, texts: Sequence[str]) -> Any:
        self.calls += 1
        await asyncio.sleep(0)
        return [self.odd[text] if text in self.odd else self._direction(text) for text in texts]

    @staticmethod
    def _direction(text: str) -> Any:
        angle = np.radians(ANGLES[text] if text in ANGLES else float(text))
        return 100 * np.array([np.cos(angle), np.sin(angle)], np.float32)


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


async def fresh(store: Store, **options: Any) -> SemanticCache:
    cache = SemanticCache(store, Compass(), **{"threshold": 0.9, "namespace": "s", **options})
    await cache.clear()
    return cache


async def found(cache: SemanticCache, prompt: str, **fields: Any) -> str | None:
    answer = await cache.get(request(prompt, **fields))
    return None if answer is None else answer.content


def test_similar_questions_hit_and_others_do_not(on_store: Any) -> None:
    async def scenario(store: Store) -> None:
        cache = await fresh(store)
        assert await found(cache, "north") is None
        await cache.set(request("north"), Answer("n"))
        assert [await found(cache, text) for text in ANGLES] == ["n", "n", "n", None, None]
        await cache.set(request("east"), Answer("e"))
        assert [await found(cache, text) for text in ANGLES] == ["n", "n", "n", "e", "e"]

    on_store(scenario)


def test_the_most_similar_question_answers_and_of_equals_the_oldest() -> None:
    async def scenario() -> None:
        cache = await fresh(MemoryStore(), threshold=-1)
        for text in ("40", "near north", "also north", "north"):
            await cache.set(request(text), Answer(text))
        assert await found(cache, "0.5") == "also north"
        assert await found(cache, "north") == "north"  # itself, though an equal one is older
        assert await found(cache, "9") == "near north"
        assert await found(cache, "41") == "40"

    run(scenario())


@pytest.mark.parametrize(("threshold", "hits"), [(COS_10 - 1e-6, True), (COS_10 + 1e-6, False)])
def test_the_threshold_is_respected_on_both_sides(threshold: float, hits: bool) -> None:
    async def scenario() -> None:
        cache = await fresh(MemoryStore(), threshold=threshold)
        await cache.set(request("north"), Answer("n"))
        assert (await found(cache, "near north") is not None) is hits

    run(scenario())


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "other"},
        {"tenant": "other"},
        {"adapter": "other"},
        {"max_tokens": 1},
        {"seed": 1},
        {"tools": []},
        {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "north"}]},
        {"messages": [{"role": "user", "content": "north", "name": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "north"}]}]},
    ],
    ids=repr,
)
def test_another_context_is_another_cache(fields: dict[str, Any]) -> None:
    async def scenario() -> None:
        cache = await fresh(MemoryStore())
        await cache.set(request("north"), Answer("here"))
        assert await found(cache, "north", **fields) is None
        await cache.set(request("north", **fields), Answer("there"))
        assert await found(cache, "north", **fields) == "there"
        assert await found(cache, "also north") == "here"

    run(scenario())


def test_another_embedder_is_another_context() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        cache = await fresh(store)
        await cache.set(request("north"), Answer("n"))
        other = Compass()
        other.name = "another"
        assert await found(SemanticCache(store, other, 0.9, "s"), "north") is None

    run(scenario())


def test_another_dimension_reads_nothing_and_breaks_nothing() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        cache = await fresh(store)
        await cache.set(request("north"), Answer("n"))
        other = Compass(north=np.ones(3))
        other.name, other.dimension = "of three", 3
        wide = SemanticCache(store, other, 0.9, "s")
        assert await found(wide, "north") is None
        await wide.set(request("north"), Answer("wide"))
        assert await found(wide, "north") == "wide"
        assert await found(cache, "north") == "n"

    run(scenario())


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "north"}],
        [{"role": "user", "content": " "}],
        [{"role": "user", "content": None}],
        [{"role": "user"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": [{"type": "text", "text": "north", "cache": 1}]}],
        [{"role": "user", "content": []}],
    ],
    ids=repr,
)
def test_what_is_no_question_goes_past_the_cache(messages: list[Any]) -> None:
    async def scenario() -> None:
        cache, model = await fresh(MemoryStore()), Model()
        for number in range(1, 3):
            answer = await cache.get_or_compute(request(messages=messages), model)
            assert answer.content == f"answer {number}"

    run(scenario())


@pytest.mark.parametrize(
    "vector", [np.zeros(2), np.full(2, np.nan), np.array([np.inf, 0]), np.ones(3), np.ones(0)]
)
def test_an_embedding_that_means_nothing_hits_nothing_and_is_not_stored(vector: Any) -> None:
    async def scenario() -> None:
        store = MemoryStore()
        cache = SemanticCache(store, Compass(odd=vector, other=vector), -1, "s")
        await cache.set(request("north"), Answer("n"))
        assert await found(cache, "odd") is None
        await cache.set(request("odd"), Answer("x"))
        assert await found(cache, "odd") is None
        assert await found(cache, "other") is None
        assert len(cache.index) == len(store._values) == 1

    run(scenario())


def test_an_embedder_that_fails_fails_no_request(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        cache, model = await fresh(MemoryStore()), Model()
        assert (await cache.get_or_compute(request("no number"), model)).content == "answer 1"

    run(scenario())
    assert "could not convert string to float" in caplog.text


def test_entries_end_at_their_time_and_leave_the_index() -> None:
    clock = Clock()

    async def scenario() -> None:
        store = MemoryStore(clock)
        cache = await fresh(store, ttl=10)
        await cache.set(request("north"), Answer("old"))
        clock.now += 5
        await cache.set(request("near north"), Answer("newer"), ttl=100)
        clock.now += 4.9
        assert await found(cache, "also north") == "old"
        clock.now += 0.1
        assert await found(cache, "also north") == "newer"  # the next best
        assert len(cache.index) == 1
        assert len(await store.read_log(cache._log)) == 1
        clock.now += 100
        assert await found(cache, "near north") is None
        assert len(cache.index) == 0

    run(scenario())


def test_what_has_ended_does_not_pile_up_though_nobody_asks_for_it() -> None:
    clock = Clock()

    async def scenario() -> None:
        store = MemoryStore(clock)
        cache = await fresh(store, ttl=10)
        for number in range(1000):
            clock.now += 1
            await cache.set(request(str(number / 100)), Answer("x"))
            assert len(cache.index) <= 64
        assert len(await store.read_log(cache._log)) == len(cache.index)

    run(scenario())


def test_the_least_recently_used_entry_goes_first_with_its_answer(on_store: Any) -> None:
    async def scenario(store: Store) -> None:
        cache = await fresh(store, capacity=2, threshold=0.999)
        await cache.set(request("north"), Answer("n"))
        await cache.set(request("east"), Answer("e"))
        assert await found(cache, "north") == "n"
        await cache.set(request("near north"), Answer("nn"))
        assert [await found(cache, text) for text in ("north", "east", "near north")] == [
            "n",
            None,
            "nn",
        ]
        assert len(cache.index) == len(await store.read_log(cache._log)) == 2
        assert await store.get(cache.key(request("east"))) is None

    on_store(scenario)


def test_a_question_asked_again_replaces_its_answer(on_store: Any) -> None:
    async def scenario(store: Store) -> None:
        cache = await fresh(store)
        for number in range(5):
            await cache.set(request("north"), Answer(str(number)))
            assert await found(cache, "north") == await found(cache, "also north") == str(number)
        assert len(cache.index) == len(await store.read_log(cache._log)) == 1

    on_store(scenario)


def test_a_restarted_cache_finds_all_entries(on_store: Any) -> None:
    async def scenario(store: Store) -> None:
        cache = await fresh(store, threshold=0.9999999)
        prompts = [str(number / 10) for number in range(1500)]  # more than a page of the log
        await asyncio.gather(*[cache.set(request(one), Answer(f"to {one}")) for one in prompts])
        restarted = SemanticCache(store, Compass(), 0.9999999, "s")
        assert [await found(restarted, one) for one in prompts] == [f"to {one}" for one in prompts]
        assert len(restarted.index) == 1500

    on_store(scenario)


def test_a_restarted_cache_with_less_room_keeps_the_newest_and_agrees_with_the_store() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        cache = await fresh(store, threshold=0.9999)
        for number in range(10):
            await cache.set(request(str(10 * number)), Answer(str(number)))
        small = SemanticCache(store, Compass(), 0.9999, "s", capacity=3)
        answers = [await found(small, str(10 * number)) for number in range(10)]
        assert answers == [None] * 7 + ["7", "8", "9"]
        assert len(small.index) == len(await store.read_log(small._log)) == len(store._values) == 3
        assert await found(cache, "0") is None  # the other cache agrees

    run(scenario())


def test_two_caches_of_a_namespace_share_what_they_learn(on_store: Any) -> None:
    async def scenario(store: Store) -> None:
        one = await fresh(store)
        other = SemanticCache(store, Compass(), 0.9, "s")
        await one.set(request("north"), Answer("n"))
        assert await found(other, "also north") == "n"
        await other.set(request("east"), Answer("e"))
        assert await found(one, "nearly east") == "e"
        await other.set(request("north"), Answer("new"))
        assert await found(one, "near north") == "new"
        await one.clear()
        assert [await found(other, text) for text in ANGLES] == [None] * 5
        assert len(other.index) == 0
        await one.set(request("north"), Answer("again"))
        assert await found(other, "north") == "again"

    on_store(scenario)


def test_clearing_takes_only_own_keys(on_store: Any) -> None:
    async def scenario(store: Store) -> None:
        neighbour = await fresh(store, namespace="s2")
        await neighbour.set(request("north"), Answer("kept"))
        await store.set("{s}:answer:x", b"of the response cache")
        cache = await fresh(store)
        await cache.set(request("north"), Answer("n"))
        await cache.clear()
        assert await found(cache, "north") is None
        assert await found(neighbour, "north") == "kept"
        assert await store.get("{s}:answer:x") is not None
        assert await store.delete_prefix(cache.prefix) == 0

    on_store(scenario)


def test_answers_and_vectors_that_are_not_what_was_written_are_misses(on_store: Any) -> None:
    async def scenario(store: Store) -> None:
        cache = await fresh(store)
        await cache.set(request("east"), Answer("e"))
        foreign = await store.get(cache.key(request("east"))) or b""
        for value in (b"", b"junk", foreign[:-1], foreign):
            await cache.set(request("north"), Answer("n"))
            await store.set(cache.key(request("north")), value)
            assert await found(cache, "north") is None
            assert await found(cache, "also north") is None
        await store.append(cache._log, b"junk")
        assert await found(cache, "nearly east") == "e"
        assert len(await store.read_log(cache._log)) == 1
        await cache.set(request("north"), Answer("n"))
        await store.delete(cache.key(request("north")))  # evicted by the server
        assert await found(cache, "near north") is None
        assert len(cache.index) == 1

    on_store(scenario)


@pytest.mark.parametrize(
    "operation", ["get", "set", "append", "read_log", "remove", "delete", "all"]
)
def test_a_store_that_is_down_fails_no_request(operation: str) -> None:
    async def scenario() -> None:
        names = ["get", "get_many", "set", "append", "read_log", "remove", "delete", "increment"]
        store = BrokenStore(*(names if operation == "all" else [operation]))
        cache, model = SemanticCache(store, Compass(), 0.9, "s", capacity=1), Model()
        for text in ("north", "east", "north", "also north"):
            assert (await cache.get_or_compute(request(text), model)).content is not None
        store.operations.clear()
        await cache.set(request("north"), Answer("up again"))
        assert await found(cache, "also north") == "up again"

    run(scenario())


def test_equal_questions_at_the_same_time_ask_once() -> None:
    async def scenario() -> None:
        cache, model = await fresh(MemoryStore()), Model(delay=1)
        answers = await asyncio.gather(
            *[cache.get_or_compute(request("north"), model) for _ in range(100)]
        )
        assert {answer.content for answer in answers} == {"answer 1"}
        assert (await cache.get_or_compute(request("also north"), model)).content == "answer 1"
        assert model.calls == 1
        counted = await cache.counters()
        assert (counted["hits"], counted["misses"], counted["joined"]) == (1, 100, 99)
        assert counted["saved_completion_tokens"] == 5 * 100

    run(scenario())


def test_a_missed_question_is_embedded_once() -> None:
    async def scenario() -> None:
        cache = await fresh(MemoryStore())
        embedder = cache.embedder
        assert isinstance(embedder, Compass)
        await cache.get_or_compute(request("north"), Model())
        assert embedder.calls == 1
        await cache.get(request("north"))  # word for word: no need of vectors
        assert embedder.calls == 1
        for number in range(200):
            await cache.get(request(str(number)))
        assert len(cache._embeddings) <= 64

    run(scenario())


@pytest.mark.parametrize("size", [10, 1000])
def test_a_hit_is_a_look_at_the_log_and_a_get(redis_server: RedisServer, size: int) -> None:
    async def scenario(store: RedisStore) -> None:
        cache = await fresh(store)
        await asyncio.gather(*[cache.set(request(str(n / 8)), Answer("x")) for n in range(size)])
        await cache.get(request("0.01"))  # it has read its own entries now
        await cache.close()
        client = await store.client()
        await client.config_resetstat()
        assert await found(cache, "0.02") == "x"
        used = await client.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): int(used[name]["calls"]) for name in used}
        assert calls.pop("xrange") == 1
        assert calls.pop("mget", 0) + calls.pop("get", 0) == 1
        assert calls.keys() <= {"info", "config|resetstat"}
        await cache.close()

    on_redis(redis_server.url, scenario)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.01}, "give a cosine"),
        ({"threshold": float("nan")}, "give a cosine"),
        ({"capacity": 0}, "give 1 or more entries"),
        ({"ttl": 0}, "give seconds above 0"),
        ({"namespace": "}"}, "without braces"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SemanticCache(MemoryStore(), Compass(), **options)
