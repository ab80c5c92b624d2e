"""One latency meter on a machine, and calls whose true times are noted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from .machine import Machine
from .protocol import Chunk, MakeLatencyMeter


@dataclass(frozen=True)
class Work:
    """What a call does: the host works, the device gets work, the host goes on beside it."""

    before: float = 0.0
    device: float = 0.0
    beside: float = 0.0


@dataclass
class WorkCall:
    """A call that does one `Work` after the other, the last one again and again, and notes what
    each takes where nothing else is to do."""

    machine: Machine
    works: Sequence[Work]
    stream: int = 0
    log: list[str] | None = None
    name: str = ""
    truths: list[float] = field(default_factory=list)

    def __call__(self) -> None:
        self._begin()
        self._do()

    async def asynchronous(self) -> None:
        """The same as a coroutine, which waits before the host works."""
        self._begin()
        await asyncio.sleep(0)
        self._do()

    def _begin(self) -> None:
        if self.log is not None:
            self.log.append(self.name)

    def _do(self) -> None:
        work = self.works[min(len(self.truths), len(self.works) - 1)]
        self.machine.host(work.before)
        if work.device:
            self.machine.launch(work.device, self.stream)
        self.machine.host(work.beside)
        self.truths.append(work.before + max(work.device, work.beside))


class LatencyTrial:
    """A meter of its own machine."""

    def __init__(self, make: MakeLatencyMeter, resolution: float, in_a_row: bool = True) -> None:
        self.machine = Machine()
        self._resolution, self._in_a_row = resolution, in_a_row
        with self.running():
            self.meter: Any = make(self.machine)

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.machine.running():
            yield

    def call(self, *works: Work, **options: Any) -> WorkCall:
        return WorkCall(self.machine, works, **options)

    def time(self, call: Callable[[], object], samples: int, warmup: int) -> list[float]:
        with self.running():
            return [float(x) for x in self.meter.time(call, samples, warmup)]

    def check(self, found: Sequence[float], call: WorkCall, samples: int, warmup: int) -> None:
        """Raise AssertionError unless the samples are the times of so many calls, in order and in a
        row unless declared otherwise, none of which is one of the first ``warmup``."""
        truths = call.truths
        assert len(found) == samples, f"{len(found)} samples; {samples} were asked for"
        assert len(truths) >= warmup + samples, (
            f"{len(truths)} calls were made for {samples} samples after {warmup} to warm up"
        )
        left = iter(truths[warmup:])
        runs = [truths[at : at + samples] for at in range(warmup, len(truths) - samples + 1)]
        if self._in_a_row:
            held = any(self.equal(found, run) for run in runs)
        else:
            held = all(any(self.near(x, true) for true in left) for x in found)
        assert held, (
            f"the samples are {list(found)}; the calls took {truths}, the first {warmup} of which "
            "are no samples"
        )

    def equal(self, found: Sequence[float], true: Sequence[float]) -> bool:
        return len(found) == len(true) and all(map(self.near, found, true))

    def near(self, found: float | None, true: float) -> bool:
        """Whether a reading is the truth, to the clock's resolution and rounding."""
        slack = self._resolution + self.machine.rounding
        return found is not None and abs(found - true) <= slack


@dataclass(frozen=True)
class Stream:
    """A request's chunks, the seconds before each of them, and those that sending takes."""

    sending: float
    waits: tuple[float, ...]
    chunks: tuple[Chunk, ...]

    @property
    def arrivals(self) -> list[float]:
        """When each token is there, after sending began."""
        found, now = list[float](), self.sending
        for wait, chunk in zip(self.waits, self.chunks, strict=True):
            now += wait
            found += [now] * len(chunk.token_ids)
        return found

    @property
    def chunk_arrivals(self) -> list[float]:
        """When each chunk with a token is there."""
        found, now = list[float](), self.sending
        for wait, chunk in zip(self.waits, self.chunks, strict=True):
            now += wait
            found += [now] if chunk.token_ids else []
        return found

    def send(self, machine: Machine) -> Iterator[Chunk]:
        """The device works on each chunk; the host waits for it."""
        machine.host(self.sending)
        return self._chunks(machine)

    def _chunks(self, machine: Machine) -> Iterator[Chunk]:
        for wait, chunk in zip(self.waits, self.chunks, strict=True):
            machine.launch(wait)
            machine.synchronize()
            yield chunk


def stream_of(*pieces: tuple[float, int], sending: float = 0.001) -> Stream:
    """A stream of pieces: the seconds before each, and its number of tokens."""
    chunks, told = [], 0
    for _, count in pieces:
        chunks.append(Chunk(tuple(range(told, told + count)), "word " * count))
        told += count
    return Stream(sending, tuple(wait for wait, _ in pieces), tuple(chunks))


def seconds() -> st.SearchStrategy[float]:
    """Times that floats hold exactly, of 1 ms to 2 s."""
    return st.integers(1, 2048).map(lambda count: count / 1024)


@st.composite
def works(draw: st.DrawFn) -> tuple[Work, ...]:
    """Work of several calls; the device is never done before the host."""
    made = []
    for _ in range(draw(st.integers(4, 8))):
        device = draw(seconds())
        made.append(Work(draw(seconds()), device, device * draw(st.sampled_from((0.0, 0.5)))))
    return tuple(made)


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Answers with chunks of none, one and several tokens; at least one has a token."""
    counts = draw(st.lists(st.integers(0, 3), min_size=1, max_size=8).filter(any))
    pieces = [(draw(seconds()), count) for count in counts]
    return stream_of(*pieces, sending=draw(seconds()))
