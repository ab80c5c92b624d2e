"""What the suites of meters talk to: minimal protocols for a thin adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .machine import Machine
from .memory_space import MemorySpace

Call = Callable[[], Any]
Results = Callable[[], Sequence[float]]


@dataclass(frozen=True)
class Chunk:
    """What a stream brings at once: tokens, or none (a role, a count of tokens).

    ``kind`` is "answer", "reasoning" or "other"; ``text`` is theirs, and may be empty.
    """

    token_ids: tuple[int, ...] = ()
    text: str = ""
    kind: str = "answer"


class RequestTimes(Protocol):
    """One request's times in seconds, as `infopt_reference.measurement.RequestTiming` has them.

    ``tpot`` is None or NaN for a single token.
    """

    @property
    def ttft(self) -> float: ...

    @property
    def itl(self) -> Sequence[float]: ...

    @property
    def tpot(self) -> float | None: ...

    @property
    def e2e(self) -> float: ...

    @property
    def tokens(self) -> int: ...


class LatencyMeter(Protocol):
    """Times calls."""

    def time(self, call: Call, samples: int, warmup: int) -> Sequence[float]:
        """Seconds of each of ``samples`` calls, in order, after ``warmup`` calls or more that are
        no samples."""


class AsyncMeter(LatencyMeter, Protocol):
    """Capability "async"."""

    def time_async(
        self, call: Callable[[], Awaitable[Any]], samples: int, warmup: int
    ) -> Sequence[float]:
        """As ``time``, of coroutines; it brings its event loop."""


class ComparingMeter(LatencyMeter, Protocol):
    """Capability "several"."""

    def compare(
        self, calls: Mapping[str, Call], samples: int, warmup: int
    ) -> Mapping[str, Sequence[float]]:
        """As ``time``, of each of several calls."""


class CheckingMeter(LatencyMeter, Protocol):
    """Capability "checked"."""

    def compare_results(
        self, calls: Mapping[str, Results], samples: int, warmup: int
    ) -> Mapping[str, Sequence[float]]:
        """As ``compare``; raises where a call's result, a list of numbers, is not the first one's
        up to rounding."""


class RequestMeter(LatencyMeter, Protocol):
    """Capability "requests"."""

    def time_request(self, send: Callable[[], Iterator[Chunk]]) -> RequestTimes:
        """Sends a request, and reads its stream to the end. Raises what the stream raises, and
        where no token comes."""


class QuantileMeter(LatencyMeter, Protocol):
    """Capability "quantiles"."""

    def quantile(self, samples: Sequence[float], level: float) -> float:
        """The ``level``-quantile (0 … 1) of samples."""


class PooledMeter(LatencyMeter, Protocol):
    """Capability "pooled"."""

    def pooled_quantile(self, workers: Sequence[Sequence[float]], level: float) -> float:
        """The quantile of the samples of several workers."""


@dataclass(frozen=True)
class LoadResult:
    """One request under load: its times from when it was due, or that it failed."""

    failed: bool
    ttft: float | None = None
    e2e: float | None = None


class LoadMeter(LatencyMeter, Protocol):
    """Capability "load"."""

    async def run_load(
        self,
        send: Callable[[int], AsyncIterator[Chunk]],
        due: Sequence[float],
        concurrency: int | None,
    ) -> Sequence[LoadResult]:
        """Sends request i at ``due[i]`` seconds from now, or as soon as fewer than ``concurrency``
        are under way; the results in order."""


class MemoryReading(Protocol):
    """Bytes held before a call, at most during it, and behind it."""

    @property
    def before_bytes(self) -> int: ...

    @property
    def peak_bytes(self) -> int: ...

    @property
    def after_bytes(self) -> int: ...


class ReservedReading(MemoryReading, Protocol):
    """Capability "reserved"."""

    @property
    def peak_reserved_bytes(self) -> int: ...


class MemoryMeter(Protocol):
    """Reads memory around calls."""

    def measure(self, call: Call) -> MemoryReading:
        """What one call holds."""


class GrowthMeter(MemoryMeter, Protocol):
    """Capability "growth"."""

    def growth(self, call: Call, calls: int, warmup: int) -> float:
        """Bytes that each of ``calls`` calls leaves behind, after ``warmup`` calls."""


class MakeLatencyMeter(Protocol):
    """The factory that `LatencyMeterSuite` asks for."""

    def __call__(self, machine: Machine) -> LatencyMeter:
        """A meter of what runs on this machine."""


class MakeMemoryMeter(Protocol):
    """The factory that `MemoryMeterSuite` asks for."""

    def __call__(self, memory: MemorySpace) -> MemoryMeter:
        """A meter of what is held in this memory."""
