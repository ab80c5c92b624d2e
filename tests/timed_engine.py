"""An engine under load whose times are known, on virtual time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from infopt_suites.batching.clock import VirtualClock
from infopt_suites.gates.throughput import measure as module
from infopt_suites.gates.throughput.gate import ThroughputPlan
from infopt_suites.gates.throughput.measure import ThroughputMeasure

from pytest_infopt.engines.base import Capability, TokenEvent

PLAN = ThroughputPlan(concurrency=(1, 4), requests=8, new_tokens=5, rate=1.0, ttft=1.5, tpot=0.3)


class TimedEngine:
    """The first token takes a second, each other ``gap``; ``parallel`` requests at once.

    Request ``fails`` does. The first ``cold`` take ten seconds more. ``chunk`` tokens come at once.
    ``short``: an answer has a token less.
    """

    capabilities = frozenset({Capability.LOAD})

    def __init__(
        self,
        name: str,
        gap: float = 0.25,
        parallel: int = 4,
        fails: int = -1,
        cold: int = 0,
        chunk: int = 1,
    ) -> None:
        self.name, self.gap, self.parallel, self.fails = name, gap, parallel, fails
        self.cold, self.chunk = cold, chunk
        self.short = False
        self.prompts: list[tuple[int, ...]] = []
        self.opened = 0
        self.began: list[float] = []

    @property
    def asked(self) -> int:
        return len(self.prompts)

    async def open_streams(self, count: int) -> None:
        self.opened += 1
        self._room = asyncio.Semaphore(self.parallel)

    async def load_stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> list[TokenEvent]:
        self.prompts.append(tuple(prompt_ids))
        self.began.append(time.perf_counter())
        place_in_line = self.asked - 1
        if place_in_line == self.fails:
            raise ConnectionError("cut")
        events = []
        async with self._room:
            if place_in_line < self.cold:
                await asyncio.sleep(10.0)
            for place in range(max_new_tokens - self.short):
                if place % self.chunk == 0:
                    await asyncio.sleep(self.gap * self.chunk if place else 1.0)
                events.append(TokenEvent(place, time.perf_counter()))
        return events

    def close_streams(self) -> None:
        self.opened -= 1
        del self._room


def measured(reference: Any, candidate: Any) -> ThroughputMeasure:
    """The gate's measure on both."""
    pair: Any = SimpleNamespace(
        release=SimpleNamespace(plan=lambda kind: PLAN),
        in_turns=False,
        reference=reference,
        candidate=candidate,
        request=lambda length, index: [index] * length,
    )
    return ThroughputMeasure(pair)


@contextmanager
def virtual_time() -> Iterator[None]:
    """Loads of the gate take no time."""

    def run(coroutine: Any) -> Any:
        clock = VirtualClock()
        try:
            return clock.run(coroutine)
        finally:
            clock.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "run_load", run)
        yield
