"""What caches of answers cost on a real server: an exact hit, a semantic one, a stampede, memory.

Run as a script; prints ratios of one run. The two sides of a ratio take turns, and the ratio is the
median over the pairs, with its quartiles; below 1 the first side is the faster. Times are wall
times, as waiting for the server is part of them; embedding is left out (the vectors are given), as
it costs every semantic cache the same. The scan that the semantic look-up is compared with goes
over the keys and fetches one after the other; it is measured on fewer entries, and its time per
entry is taken for the rest, which favours it, as its share of SCAN grows with the keyspace.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from infopt_reference.caching import (
    Answer,
    ChatRequest,
    MemoryStore,
    RedisStore,
    ResponseCache,
    SemanticCache,
    encode,
)
from infopt_reference.caching.vector_record import pack_record

from pytest_infopt.fixtures.redis_server import open_redis_server

ENTRIES, DIMENSION, SCANNED = 100_000, 384, 2_000
ROUNDS, HIT_ROUNDS, BURST = 31, 1_001, 1_000
MATRIX_LIMIT, SCAN_LIMIT, MEMORY_LIMIT, HIT_LIMIT = 1.5, 50, 1.3, 1.5
ANSWER = Answer("x" * 2000, prompt_tokens=50, completion_tokens=500)
Work = Callable[[], Awaitable[Any]]


class GivenVectors:
    """An embedder of questions that are numbers of rows; "near N" is close to row N."""

    name = "given"
    dimension = DIMENSION

    def __init__(self, count: int) -> None:
        generator = np.random.default_rng(0)
        vectors = generator.standard_normal((count, DIMENSION), dtype=np.float32)
        self.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    async def embed(self, texts: Sequence[str]) -> Any:
        found = [self.vectors[int(text.removeprefix("near "))].copy() for text in texts]
        for vector in found:
            vector[0] += 0.05
        return found


def ask(prompt: str) -> ChatRequest:
    message = {"role": "user", "content": prompt}
    return ChatRequest.from_mapping({"model": "m", "messages": [message], "temperature": 0})


async def compare(label: str, one: Work, other: Work, limit: float, rounds: int) -> None:
    pairs = []
    for _ in range(rounds + 1):  # the first round warms up
        times = []
        for work in (one, other):
            started = time.perf_counter()
            await work()
            times.append(time.perf_counter() - started)
        pairs.append(times)
    low, ratio, high = statistics.quantiles([mine / theirs for mine, theirs in pairs[1:]], n=4)
    mine, theirs = (statistics.median(x) * 1e6 for x in zip(*pairs[1:], strict=True))
    print(
        f"  {label:<48} {mine:9.0f} against {theirs:9.0f} µs: "
        f"ratio {ratio:.2f} ({low:.2f} to {high:.2f}), limit {limit}"
    )


async def exact_hits(store: RedisStore) -> None:
    print("Exact hit, an answer of 2 KiB, p50")
    async with ResponseCache(store, "bench") as cache:
        request = ask("Why?")
        await cache.set(request, ANSWER)
        client, key = await store.client(), cache.key(request)
        await compare(
            "against a bare GET of redis.asyncio",
            lambda: cache.get_or_compute(request, unexpected),
            lambda: client.get(key),
            HIT_LIMIT,
            HIT_ROUNDS,
        )


async def unexpected() -> Answer:
    raise AssertionError("a hit was expected")


async def stampede(store: RedisStore) -> None:
    calls = 0

    async def backend() -> Answer:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.1)
        return ANSWER

    cache = ResponseCache(store, "stampede")
    started = time.perf_counter()
    await asyncio.gather(*[cache.get_or_compute(ask("Why?"), backend) for _ in range(BURST)])
    seconds = time.perf_counter() - started
    print(f"Stampede: {BURST:,} equal misses at once, {calls} backend call, {seconds:.2f} s")
    assert calls == 1
    await cache.close()


async def fill(cache: SemanticCache, embedder: GivenVectors, count: int) -> None:
    """What `SemanticCache.set` writes, in pipelines: the benchmark is of look-ups."""
    assert isinstance(cache.store, RedisStore)
    client = await cache.store.client()
    for start in range(0, count, 1000):
        pipeline = client.pipeline(transaction=False)
        for number in range(start, min(start + 1000, count)):
            request = ask(str(number))
            question = cache._question(request)
            record = pack_record(question.entry, question.context, embedder.vectors[number], None)
            pipeline.set(cache.key(request), encode(cache.key(request), ANSWER))
            pipeline.xadd(cache._log, {b"": record})
        await pipeline.execute()


async def scan(store: RedisStore, embedder: GivenVectors) -> float:
    """Seconds an entry of a semantic cache that scans keys and fetches one after the other."""
    client = await store.client()
    for number in range(SCANNED):
        entry = {"embedding": embedder.vectors[number].tolist(), "answer": ANSWER.content}
        await client.set(f"scanned:{number}", json.dumps(entry))
    question = (await embedder.embed(["near 1"]))[0]
    started = time.perf_counter()
    best = (-1.0, "")
    async for key in client.scan_iter("scanned:*", count=1000):
        entry = json.loads(await client.get(key))
        vector = np.array(entry["embedding"], np.float32)
        cosine = float(vector @ question) / float(np.linalg.norm(vector) * np.linalg.norm(question))
        best = max(best, (cosine, entry["answer"]))
    seconds = (time.perf_counter() - started) / SCANNED
    await store.delete_prefix("scanned:")
    return seconds


async def semantic_hits(store: RedisStore) -> None:
    embedder = GivenVectors(ENTRIES)
    scanning = await scan(store, embedder)
    print(f"Semantic hit, {ENTRIES:,} entries of {DIMENSION} numbers, p50")
    await fill(SemanticCache(store, embedder, 0.9, "bench", ttl=None), embedder, ENTRIES)
    cache = SemanticCache(store, embedder, 0.9, "bench", ttl=None)
    started = time.perf_counter()
    assert await cache.get(ask("near 7"))
    print(f"  read by a restarted cache in {time.perf_counter() - started:.1f} s")
    numbers = iter(range(ENTRIES))

    async def look_up() -> None:
        assert await cache.get(ask(f"near {next(numbers)}")) == ANSWER

    async def product() -> None:
        assert (embedder.vectors @ embedder.vectors[next(numbers)]).max() > 0.9

    await compare(
        "against one product of matrix and vector", look_up, product, MATRIX_LIMIT, ROUNDS
    )
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        await look_up()
        times.append(time.perf_counter() - started)
    faster = scanning * ENTRIES / statistics.median(times)
    print(
        f"  scanning and fetching: {scanning * 1e6:.0f} µs an entry (of {SCANNED:,}); "
        f"{faster:.0f} times as long, at least {SCAN_LIMIT} wanted"
    )


async def growth() -> None:
    print("Growth, in memory, one context")
    embedder = GivenVectors(ENTRIES)
    cache = SemanticCache(MemoryStore(), embedder, 0.9, ttl=None)
    done = 0
    for count in (ENTRIES // 4, ENTRIES // 2, ENTRIES):
        for number in range(done, count):
            await cache.set(ask(str(number)), Answer("x"))
        done = count
        times = []
        for number in range(ROUNDS):
            started = time.perf_counter()
            await cache.get(ask(f"near {number}"))
            times.append(time.perf_counter() - started)
        memory = cache.index.nbytes / (count * DIMENSION * 4)
        print(
            f"  {count:>7,} entries: look-up {statistics.median(times) * 1e3:6.2f} ms, "
            f"memory {memory:.3f} times the vectors (limit {MEMORY_LIMIT})"
        )


async def main() -> None:
    server = open_redis_server()
    store = RedisStore(server.url, timeout=10.0)
    print(f"Server: {server.source.rpartition('/')[2]}")
    await exact_hits(store)
    await stampede(store)
    await semantic_hits(store)
    await growth()
    await store.close()
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
