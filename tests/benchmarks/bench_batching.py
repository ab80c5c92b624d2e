"""What a batcher costs beside its backend: dispatch a request, memory and steps of a long queue.

Run as a script; prints ratios of one run. The sides of a ratio take turns, and the ratio is the
median over the rounds, with its quartiles; below 1 the first side is the faster. Times are CPU
times: all of it is Python on one thread. The backend does nothing. The bare side of a ratio is an
asyncio future that the event loop resolves in its next turn: the least that any request to another
task costs.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import itertools
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

from infopt_reference.batching import BatchPolicy, DynamicBatcher

REQUESTS, ROUNDS = 10_000, 11
BATCH, WAIT = 32, 0.001  # items, seconds
CLIENTS = 64  # that ask again as soon as they are answered
BARE_LIMIT, PEER_LIMIT = 3.0, 1.0
SHORT, LONG = 1_000, 100_000  # waiting requests
MEMORY_LIMIT, STEP_LIMIT = 1.3, 1.3
Submit = Callable[[int], Awaitable[Any]]


async def nothing(items: list[int]) -> list[int]:
    return items


async def bare(item: int) -> int:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()
    loop.call_soon(future.set_result, item)
    return await future


async def all_at_once(submit: Submit) -> None:
    await asyncio.gather(*[submit(item) for item in range(REQUESTS)])


async def by_clients(submit: Submit) -> None:
    async def client(number: int) -> None:
        for item in range(number, REQUESTS, CLIENTS):
            await submit(item)

    await asyncio.gather(*map(client, range(CLIENTS)))


async def one_by_one(submit: Submit) -> None:
    for item in range(REQUESTS):
        await submit(item)


def batched_submit() -> Submit:
    from batched.aio import AsyncBatchProcessor

    processor: Any = AsyncBatchProcessor(nothing, batch_size=BATCH, timeout_ms=WAIT * 1000)
    return processor


def async_batcher_submit() -> Submit:
    from async_batcher.batcher import AsyncBatcher

    class Nothing(AsyncBatcher[int, int]):
        async def process_batch(self, batch: list[int]) -> list[int]:
            return batch

    return Nothing(max_batch_size=BATCH, max_queue_time=WAIT).process


PEERS = {"batched": batched_submit, "async-batcher": async_batcher_submit}


async def seconds(load: Callable[[Submit], Awaitable[None]], submit: Submit) -> float:
    gc.collect()
    gc.disable()  # when it runs depends on what was allocated before
    started = time.process_time()
    await load(submit)
    elapsed = time.process_time() - started
    gc.enable()
    return elapsed


def report(label: str, pairs: list[tuple[float, float]], limit: float) -> None:
    low, ratio, high = statistics.quantiles([mine / theirs for mine, theirs in pairs], n=4)
    mine, theirs = (statistics.median(x) / REQUESTS * 1e6 for x in zip(*pairs, strict=True))
    print(
        f"  {label:<46} {mine:7.2f} against {theirs:7.2f} µs: "
        f"ratio {ratio:.2f} ({low:.2f} to {high:.2f}), limit {limit}"
    )


async def against(other: Submit, load: Callable[[Submit], Awaitable[None]], wait: float) -> Any:
    async with DynamicBatcher(nothing, BatchPolicy(BATCH, wait)) as batcher:
        await load(batcher.submit), await load(other)  # warm
        return [
            (await seconds(load, batcher.submit), await seconds(load, other)) for _ in range(ROUNDS)
        ]


async def dispatch() -> None:
    print(f"Dispatch, µs a request ({REQUESTS:,} requests, batches of {BATCH}, no work)")
    loads = {
        "all at once": (all_at_once, WAIT),
        f"{CLIENTS} clients": (by_clients, WAIT),
        "one by one, no window": (one_by_one, 0.0),
    }
    for name, (load, wait) in loads.items():
        report(f"{name}, against a bare future", await against(bare, load, wait), BARE_LIMIT)
    for peer, make in PEERS.items():
        try:
            submit = make()
        except ImportError as error:
            print(f"  {peer}: not there ({error})")
            continue
        version = importlib.metadata.version(peer)
        for name, (load, wait) in list(loads.items())[:2]:
            label = f"{name}, against {peer} {version}"
            report(label, await against(submit, load, wait), PEER_LIMIT)


async def waiting(count: int) -> tuple[float, float]:
    """Bytes a waiting request, beside its task; CPU seconds a batch when they are served."""
    blocked = asyncio.Event()

    async def backend(items: list[int]) -> list[int]:
        await blocked.wait()
        return items

    async with DynamicBatcher(backend, BatchPolicy(BATCH)) as batcher:
        tasks = [asyncio.ensure_future(batcher.submit(item)) for item in range(count)]
        gc.collect()
        tracemalloc.start()
        await asyncio.sleep(0)  # all of them are in the line now
        nbytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        blocked.set()
        started = time.process_time()
        await asyncio.gather(*tasks)
        return nbytes / count, (time.process_time() - started) / (count / BATCH)


async def longest_steps(count: int) -> list[float]:
    """CPU seconds between one call of the backend and the next, with ``count`` requests waiting."""
    moments: list[float] = []

    async def backend(items: list[int]) -> list[int]:
        moments.append(time.process_time())
        return items

    async with DynamicBatcher(backend, BatchPolicy(BATCH)) as batcher:
        tasks = [asyncio.ensure_future(batcher.submit(item)) for item in range(count)]
        gc.disable()  # a collection goes over everything that lives
        await asyncio.gather(*tasks)
        gc.enable()
    return [after - before for before, after in itertools.pairwise(moments)][1:]


async def queue() -> None:
    print(f"Queue, {LONG:,} waiting requests against {SHORT:,}")
    pairs = [(await waiting(SHORT), await waiting(LONG)) for _ in range(5)]
    short, long = ([x[side][0] for x in pairs] for side in (0, 1))
    ratio = statistics.median(long) / statistics.median(short)
    print(
        f"  memory: {statistics.median(long):.0f} against {statistics.median(short):.0f} bytes a "
        f"request, ratio {ratio:.2f}, limit {MEMORY_LIMIT}"
    )
    rounds = [(await longest_steps(SHORT), await longest_steps(LONG)) for _ in range(5)]
    ratios = [statistics.median(long) / statistics.median(short) for short, long in rounds]
    worst = min(max(long) / statistics.median(long) for _, long in rounds)
    print(
        f"  a batch: {statistics.median([statistics.median(x[1]) for x in rounds]) * 1e6:.0f} µs, "
        f"ratio {statistics.median(ratios):.2f}, limit {STEP_LIMIT}; the longest of "
        f"{LONG // BATCH:,}: {worst:.1f} times the median"
    )


if __name__ == "__main__":
    asyncio.run(dispatch())
    asyncio.run(queue())
