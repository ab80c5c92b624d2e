"""A load generator: many streamed requests at once, timed from when each was due.

In an open load, a request is due at a moment that no answer changes. Where it is sent later, since
as many as allowed are under way or the generator itself is late, that wait is part of its latency:
whoever starts the clock at sending leaves out those who would have waited longest (coordinated
omission; Tene, "How NOT to Measure Latency", 2013). ``sent − due`` tells how long it was. In a
closed load, so many clients each send when their last request was answered, and it is due then.

A request that fails has no times. It is counted and told, and harms no other.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from .request_times import RequestTiming

__all__ = ["LoadResult", "LoadSummary", "Objective", "arrivals_of", "closed_load", "open_load"]

Clock = Callable[[], float]
# Sends request i, and gives its token ids with the moments at which they arrived.
Send = Callable[[int], Awaitable[Iterable[tuple[int, float]]]]


@dataclass(frozen=True)
class LoadResult:
    """One request. Times are in seconds after the load began; ``timing`` counts from ``due``, and
    is None where the request failed, for the reason ``error``."""

    due: float
    sent: float
    ended: float
    timing: RequestTiming | None
    error: str = ""


@dataclass(frozen=True)
class Objective:
    """What a request has to keep to be good: seconds at most; None is no limit."""

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    def keeps(self, timing: RequestTiming | None) -> bool:
        """Whether a request kept all of it; a failed one did not; a single token has no TPOT."""
        if timing is None:
            return False
        pairs = ((timing.ttft, self.ttft), (timing.tpot, self.tpot), (timing.e2e, self.e2e))
        return all(x is None or most is None or x <= most for x, most in pairs)


@dataclass(frozen=True)
class LoadSummary:
    """What a load came to; tokens are those of requests that did not fail."""

    requests: int
    failed: int
    seconds: float  # from when the first was due to the last one's end
    tokens: int
    errors: dict[str, int]  # failures by reason

    @classmethod
    def of(cls, results: Sequence[LoadResult]) -> LoadSummary:
        """Raises ValueError for no results."""
        if not results:
            raise ValueError("a load without requests has no summary")
        timings = [result.timing for result in results if result.timing is not None]
        return cls(
            requests=len(results),
            failed=len(results) - len(timings),
            seconds=max(r.ended for r in results) - min(r.due for r in results),
            tokens=sum(len(timing.token_ids) for timing in timings),
            errors=dict(Counter(result.error for result in results if result.error)),
        )

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def requests_per_second(self) -> float:
        return (self.requests - self.failed) / self.seconds


async def open_load(
    send: Send,
    due: Sequence[float],
    *,
    concurrency: int | None = None,
    timeout: float | None = None,
    clock: Clock = time.perf_counter,
) -> list[LoadResult]:
    """Send request i at ``due[i]`` seconds from now; the results in that order.

    No more than ``concurrency`` are under way at once. A request that takes longer than ``timeout``
    seconds from when it was sent has failed. ``clock`` is the one that stamps arrivals.
    """
    began = clock()
    room = asyncio.Semaphore(concurrency) if concurrency else nullcontext()

    async def one(index: int) -> LoadResult:
        async with room:
            return await _request(send, index, began, due[index], timeout, clock)

    tasks: dict[int, asyncio.Task[LoadResult]] = {}
    async with asyncio.TaskGroup() as group:
        for index in sorted(range(len(due)), key=due.__getitem__):
            wait = began + due[index] - clock()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks[index] = group.create_task(one(index))
    return [tasks[index].result() for index in range(len(due))]


async def closed_load(
    send: Send,
    requests: int,
    *,
    clients: int,
    timeout: float | None = None,
    clock: Clock = time.perf_counter,
) -> list[LoadResult]:
    """``clients`` send one request after the other until there were so many; the results in the
    order of sending. See `open_load`."""
    began = clock()
    left = iter(range(requests))
    found: dict[int, LoadResult] = {}

    async def client() -> None:
        for index in left:
            due = clock() - began
            found[index] = await _request(send, index, began, due, timeout, clock)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(clients, requests)):
            group.create_task(client())
    return [found[index] for index in range(requests)]


async def arrivals_of(
    stream: AsyncIterable[Sequence[int]], clock: Clock = time.perf_counter
) -> list[tuple[int, float]]:
    """The token ids of a stream of chunks, each with the moment at which its chunk came: makes a
    `Send` of anything that streams."""
    found: list[tuple[int, float]] = []
    async for chunk in stream:
        now = clock()
        found += [(token, now) for token in chunk]
    return found


async def _request(
    send: Send, index: int, began: float, due: float, timeout: float | None, clock: Clock
) -> LoadResult:
    sent = clock()
    timing, error = None, ""
    try:
        async with asyncio.timeout(timeout):
            arrivals = list(await send(index))
        moments, token_ids = [moment for _, moment in arrivals], [token for token, _ in arrivals]
        timing = RequestTiming.of(began + due, moments, token_ids)
    except TimeoutError:
        error = "TimeoutError" if timeout is None else f"took longer than {timeout:g} s"
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
    return LoadResult(due, sent - began, clock() - began, timing, error)
