"""Both stores against their contract: one that lives in memory, one on a real server."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
from caching_cases import Clock, on_redis
from infopt_reference.caching import LogId, MemoryStore, RedisStore, Store
from infopt_reference.caching.redis_store import milliseconds
from infopt_reference.caching.store import LOG_START

from pytest_infopt.fixtures.redis_server import RedisServer, open_redis_server

Scenario = Callable[[Store], Awaitable[Any]]
names = map("t{}".format, itertools.count())


@pytest.fixture(params=["memory", "redis"])
def on_store(request: pytest.FixtureRequest) -> Callable[[Scenario], Any]:
    """Runs a scenario on a store."""
    if request.param == "memory":
        return lambda scenario: asyncio.run(scenario(MemoryStore()))
    url = request.getfixturevalue("redis_server").url
    return lambda scenario: on_redis(url, scenario)


def test_values_are_bytes_of_any_kind(on_store: Any) -> None:
    key = next(names)

    async def scenario(store: Store) -> None:
        assert await store.get(key) is None
        for value in (b"", b"\x00\r\n\xff", b"x" * 5_000_000):
            await store.set(key, value)
            assert await store.get(key) == value
        await store.delete(key)
        assert await store.get(key) is None
        await store.delete(key)
        await store.delete()

    on_store(scenario)


def test_many_values_come_in_the_order_of_their_keys(on_store: Any) -> None:
    one, gone, other = (next(names) for _ in range(3))

    async def scenario(store: Store) -> None:
        await store.set(one, b"1")
        await store.set(other, b"2")
        assert await store.get_many([other, gone, one, one]) == [b"2", None, b"1", b"1"]
        assert await store.get_many([]) == []

    on_store(scenario)


def test_concurrent_additions_lose_nothing(on_store: Any) -> None:
    key = next(names)

    async def scenario(store: Store) -> None:
        assert await store.numbers(key) == {}
        await asyncio.gather(*[store.increment(key, {"a": 1, "b": n}) for n in range(200)])
        assert await store.numbers(key) == {"a": 200, "b": sum(range(200))}

    on_store(scenario)


def test_a_log_is_read_on_from_where_one_was(on_store: Any) -> None:
    log = next(names)

    async def scenario(store: Store) -> None:
        assert await store.read_log(log) == []
        ids = [await store.append(log, str(n).encode()) for n in range(10)]
        assert ids == sorted(set(ids))
        assert min(ids) > LOG_START
        everything = [(position, str(n).encode()) for n, position in enumerate(ids)]
        assert await store.read_log(log) == everything
        assert await store.read_log(log, limit=3) == everything[:3]
        assert await store.read_log(log, ids[3], limit=3) == everything[4:7]
        assert await store.read_log(log, ids[-1]) == []
        await store.remove(log, [ids[0], ids[5], LogId(1, 1)])
        await store.remove(log, [])
        assert await store.read_log(log) == [*everything[1:5], *everything[6:]]

    on_store(scenario)


def test_clearing_takes_all_keys_of_a_prefix_and_no_others(on_store: Any) -> None:
    name = next(names)
    prefix = f"{{{name}[*]?\\}}:x:"

    async def scenario(store: Store) -> None:
        own = [f"{prefix}{n}" for n in range(2500)]  # more than two pages
        foreign = [f"{{{name}[*]?\\}}:y:1", f"{{{name}1}}:x:1", name, f" {prefix}1", f"{{{name}a}}"]
        await asyncio.gather(*[store.set(key, b"x") for key in own + foreign])
        await store.increment(f"{prefix}numbers", {"a": 1})
        await store.append(f"{prefix}log", b"x")
        assert await store.delete_prefix(prefix) == len(own) + 2
        assert await store.get_many(own) == [None] * len(own)
        assert await store.numbers(f"{prefix}numbers") == {}
        assert await store.read_log(f"{prefix}log") == []
        assert await store.get_many(foreign) == [b"x"] * len(foreign)
        assert await store.delete_prefix(prefix) == 0

    on_store(scenario)


def test_in_memory_an_entry_ends_at_its_time_whoever_reads_it() -> None:
    clock = Clock()

    async def scenario() -> None:
        store = MemoryStore(clock)
        await store.set("key", b"x", ttl=10)
        await store.set("forever", b"x")
        for _ in range(19):
            clock.now += 0.5
            assert await store.get("key") == b"x"
        clock.now += 0.5
        assert await store.get("key") is None
        clock.now += 1e9
        assert await store.get("forever") == b"x"

    asyncio.run(scenario())


def test_in_memory_a_new_value_has_its_own_time() -> None:
    clock = Clock()

    async def scenario() -> None:
        store = MemoryStore(clock)
        await store.set("key", b"old", ttl=1)
        await store.set("key", b"new", ttl=10)
        clock.now += 5
        assert await store.get("key") == b"new"
        await store.set("key", b"newest")
        clock.now += 100
        assert await store.get("key") == b"newest"

    asyncio.run(scenario())


def test_in_memory_what_has_expired_does_not_pile_up() -> None:
    clock = Clock()

    async def scenario() -> None:
        store = MemoryStore(clock)
        for number in range(10_000):
            clock.now += 1
            await store.set(str(number), b"x", ttl=10)
            assert len(store._values) <= 64

    asyncio.run(scenario())


def test_in_memory_ids_grow_when_the_clock_goes_back() -> None:
    clock = Clock()

    async def scenario() -> None:
        store = MemoryStore(clock)
        first = await store.append("log", b"x")
        clock.now -= 100
        second = await store.append("log", b"y")
        assert second > first
        assert first.milliseconds == 1e12

    asyncio.run(scenario())


def test_on_redis_the_server_keeps_the_time(redis_server: RedisServer) -> None:
    key = next(names)

    async def scenario(store: RedisStore) -> None:
        await store.set(key, b"x", ttl=100)
        client = await store.client()
        left = await client.pttl(key)
        for _ in range(100):
            await store.get(key)
        assert 0 < await client.pttl(key) <= left <= 100_000
        await store.set(key, b"x")
        assert await client.pttl(key) == -1

    on_redis(redis_server.url, scenario)


@pytest.mark.parametrize(
    ("ttl", "expected"), [(None, None), (1.5, 1500), (1e-9, 1), (0.0011, 2), (60, 60_000)]
)
def test_times_to_live_are_rounded_up_to_milliseconds(
    ttl: float | None, expected: int | None
) -> None:
    assert milliseconds(ttl) == expected


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="give seconds above 0"):
        RedisStore("redis://127.0.0.1:1", timeout)


def test_on_redis_no_operation_goes_over_the_keys(redis_server: RedisServer) -> None:
    """The number of commands is that of an empty server, and none of them is KEYS or FLUSH…"""
    prefix = next(names)

    async def commands(store: RedisStore) -> dict[str, int]:
        statistics = await (await store.client()).info("commandstats")
        return {
            name.removeprefix("cmdstat_"): int(entry["calls"]) for name, entry in statistics.items()
        }

    async def used(store: RedisStore) -> dict[str, int]:
        before = await commands(store)
        await store.set(f"{prefix}:k", b"x", 1)
        await store.get(f"{prefix}:k")
        await store.get_many([f"{prefix}:k", f"{prefix}:l"])
        await store.increment(f"{prefix}:n", {"a": 1})
        await store.numbers(f"{prefix}:n")
        await store.read_log(f"{prefix}:log")
        await store.delete(f"{prefix}:k")
        after = await commands(store)
        return {
            name: n - before.get(name, 0) for name, n in after.items() if n > before.get(name, 0)
        }

    async def scenario(store: RedisStore) -> None:
        await used(store)
        few = await used(store)
        await asyncio.gather(*[store.set(f"{prefix}:{n}", b"x") for n in range(5000)])
        assert await used(store) == few
        assert not {"keys", "scan", "flushdb", "flushall"} & few.keys()
        before = await commands(store)  # others that share the server may have used anything
        await store.delete_prefix(f"{prefix}:")
        after = await commands(store)
        for name in ("keys", "flushdb", "flushall"):
            assert after.get(name, 0) == before.get(name, 0)

    on_redis(redis_server.url, scenario)


def test_one_store_serves_one_loop_after_the_other(redis_server: RedisServer) -> None:
    store = RedisStore(redis_server.url)  # filterwarnings=error: what stays open would be an error
    asyncio.run(store.set(next(names), b"x"))
    asyncio.run(store.close())

    async def scenario() -> int:
        await store.get("a")
        await store.close()
        await store.close()
        await store.get("a")
        await store.get("b")
        return len(await (await store.client()).client_list())

    with redis.Redis.from_url(redis_server.url) as client:
        before = len(client.client_list())
        assert asyncio.run(scenario()) == before + 1
        assert store._clients == {}
        assert len(client.client_list()) == before


def test_more_operations_than_connections_all_succeed(redis_server: RedisServer) -> None:
    async def scenario(store: RedisStore) -> None:
        key = next(names)
        await store.set(key, b"x" * 1000)
        values = await asyncio.gather(*[store.get(key) for _ in range(2000)])
        assert values == [b"x" * 1000] * 2000
        assert len(await (await store.client()).client_list()) <= 70

    on_redis(redis_server.url, scenario)


def test_a_server_that_does_not_answer_costs_the_timeout() -> None:
    async def scenario() -> None:
        async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(never, "127.0.0.1", 0)
        store = RedisStore(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout=0.05)
        with pytest.raises(redis.TimeoutError):
            await store.get("key")
        await store.close()
        server.close()
        await server.wait_closed()

    asyncio.run(scenario())


def test_a_server_that_was_restarted_is_used_again_at_once() -> None:
    server = open_redis_server()

    async def scenario(store: RedisStore) -> None:
        await store.set("key", b"x")
        await asyncio.to_thread(server.kill)
        with pytest.raises(redis.ConnectionError):
            await store.get("key")
        await asyncio.to_thread(server.start)
        assert await store.get("key") is None
        await store.set("key", b"y")
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        assert await store.get("key") is None  # on a connection of the server before

    on_redis(server.url, scenario)
    server.close()
