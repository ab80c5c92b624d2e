"""A latency meter: times of calls, of coroutines and of streamed requests.

A device works behind the host's back. What it was given before must be done before a sample begins,
and what the call gave it before the sample ends:

    synchronize · start = clock · call · synchronize · sample = clock − start

Each sample is one call's. Calls on their way to a steady state (compilation, caches, clock rates)
are made before and are no samples. The clock is monotonic and goes on while the host waits: neither
the calendar, which is set, nor CPU time. Sources: PyTorch's notes on CUDA semantics, section
"Asynchronous execution"; pytorch/pytorch#23910.
"""

from __future__ import annotations

import asyncio
import gc
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .request_times import RequestTiming

__all__ = ["LatencyMeter", "collector_paused", "no_device"]

Call = Callable[[], Any]
RELATIVE_ERROR = 2.0**-7  # of a result, where none is named: one step of bfloat16


def no_device() -> None:
    """Wait for no device: what runs on the host is done when it returns."""


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's garbage collector out of a timed region: a full collection takes tens of ms.

    Not gc.freeze: what is frozen is never collected, and models hold reference cycles.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class LatencyMeter:
    """Times in seconds of ``clock``; ``synchronize`` waits until all devices are idle, such as
    `torch.cuda.synchronize`."""

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        synchronize: Callable[[], None] = no_device,
    ) -> None:
        self._clock = clock
        self._synchronize = synchronize

    def time(self, call: Call, samples: int, warmup: int) -> list[float]:
        """The times of ``samples`` calls, after ``warmup`` calls that are not timed."""
        return self.compare({"": call}, samples, warmup)[""]

    def compare(
        self, calls: Mapping[str, Call], samples: int, warmup: int, seed: int = 0
    ) -> dict[str, list[float]]:
        """The times of each of several calls, which take turns in orders drawn anew each round:
        what changes on the machine meanwhile reaches all of them alike."""
        order = list(calls)
        times: dict[str, list[float]] = {name: [] for name in calls}
        coin = random.Random(seed)
        for call in calls.values():
            for _ in range(warmup):
                call()
        with collector_paused():
            for _ in range(samples):
                coin.shuffle(order)
                for name in order:
                    times[name].append(self._sample(calls[name]))
        return times

    def compare_results(
        self,
        calls: Mapping[str, Callable[[], Sequence[float]]],
        samples: int,
        warmup: int,
        relative_error: float = RELATIVE_ERROR,
    ) -> dict[str, list[float]]:
        """As `compare`, once the results of all calls are known to be the first one's.

        Raises ValueError where ‖result − first‖ > relative_error · ‖first‖: a fast call that
        computes something else is none.
        """
        results = {name: call() for name, call in calls.items()}
        first = next(iter(results.values()))
        for name, result in results.items():
            error = math.dist(first, result) if len(first) == len(result) else math.inf
            if not error <= relative_error * math.hypot(*first):
                raise ValueError(f"{name!r} does not compute what is compared: error {error:.3g}")
        return self.compare(calls, samples, warmup)

    def time_async(
        self, call: Callable[[], Awaitable[Any]], samples: int, warmup: int
    ) -> list[float]:
        """The times of ``samples`` coroutines, awaited one after the other in one event loop."""

        async def run() -> list[float]:
            for _ in range(warmup):
                await call()
            times = []
            for _ in range(samples):
                self._synchronize()
                started = self._clock()
                await call()
                self._synchronize()
                times.append(self._clock() - started)
            return times

        with collector_paused():
            return asyncio.run(run())

    def time_request(self, send: Callable[[], Iterable[Sequence[int]]]) -> RequestTiming:
        """The times of one request: ``send`` sends it and returns its chunks of token ids.

        Raises ValueError where no token comes.
        """
        self._synchronize()
        arrivals: list[float] = []
        token_ids: list[int] = []
        with collector_paused():
            sent = self._clock()
            for chunk in send():
                arrivals += [self._clock()] * len(chunk)
                token_ids += chunk
        return RequestTiming.of(sent, arrivals, token_ids)

    def _sample(self, call: Call) -> float:
        self._synchronize()
        started = self._clock()
        call()
        self._synchronize()
        return self._clock() - started
