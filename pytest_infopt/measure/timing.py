"""Timing requests: one engine alone, and two engines as a pair.

A request is sent when `time_request` asks its engine for a stream, and every token carries the time
of its own arrival, so what the reader does between tokens is not charged to the engine.
`infopt_reference.measurement.RequestTiming` defines the times. PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from infopt_reference.measurement import RequestTiming, collector_paused

from ..engines.base import StreamingEngine, TokenEvent
from ..errors import InfoptError, InvalidComparisonError
from ..results.sample import Sample

Clock = Callable[[], float]

SETTLING_TOKENS = 2  # of the prompt before a timed one: one pass over all weights


class TimedStream(Protocol):
    """What is timed: an engine, or one way of an engine's."""

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> str: ...

    def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]: ...


def time_request(
    engine: TimedStream,
    prompt_ids: Sequence[int],
    new_tokens: int,
    clock: Clock = time.perf_counter,
) -> RequestTiming:
    """Send one request and read it to its end.

    ``clock`` must be the one that stamps the engine's tokens. Raises InfoptError when no token
    comes, or times run backwards (stamps of another clock).
    """
    _wait_for_device(engine.device)
    with collector_paused():
        sent = clock()
        events = list(engine.stream(prompt_ids, new_tokens))
    try:
        return RequestTiming.of(sent, [e.arrived for e in events], [e.token_id for e in events])
    except ValueError as error:
        raise InfoptError(f"engine {engine.name!r}: {error}") from error


def _wait_for_device(device: str) -> None:
    """Let queued kernels finish: work of an earlier request must not be charged to the next one."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def warm_up(engine: TimedStream, prompt_ids: Sequence[int], new_tokens: int, calls: int) -> None:
    """Requests that do not count, read to their ends: a server may answer one with no token."""
    for _ in range(calls):
        deque(engine.stream(prompt_ids, new_tokens), maxlen=0)


def measure_pair(
    reference: TimedStream,
    candidate: TimedStream,
    prompt_ids: Sequence[int],
    new_tokens: int,
    candidate_first: bool,
    unit: str,
    clock: Clock = time.perf_counter,
) -> Sample:
    """The same request to both engines, in the order that the caller's coin drew.

    Each is timed after a short request of its own, on other tokens, that does not count: what the
    other engine left behind (its data in the caches, its clock rate) is then charged to nobody.

    ``values`` are natural logs of the ratios candidate/reference, ``tokens`` the candidate's times,
    ``details["reference"]`` the reference's. TPOT is left out where it does not exist (one token)
    or is 0 (all tokens in one chunk). Raises InvalidComparisonError when the engines generated
    different numbers of tokens: their times are then of different work.
    """
    started = time.perf_counter()
    ordered = (candidate, reference) if candidate_first else (reference, candidate)
    timings = [_settled_request(engine, prompt_ids, new_tokens, clock) for engine in ordered]
    ours, theirs = reversed(timings) if not candidate_first else timings
    if len(ours.token_ids) != len(theirs.token_ids):
        raise InvalidComparisonError(
            f"{unit}: of {new_tokens} tokens asked for, candidate {candidate.name!r} generated "
            f"{len(ours.token_ids)} and reference {reference.name!r} {len(theirs.token_ids)}; make "
            "both ignore their end token"
        )
    return Sample(
        unit=unit,
        weight=len(ours.token_ids),
        values=_log_ratios(ours, theirs),
        tokens=_lists(ours),
        details={
            "reference": _lists(theirs),
            "candidate_first": candidate_first,
            "same_tokens": ours.token_ids == theirs.token_ids,
        },
        seconds=time.perf_counter() - started,
    )


def _settled_request(
    engine: TimedStream, prompt_ids: Sequence[int], new_tokens: int, clock: Clock
) -> RequestTiming:
    """A request timed after one that was not; that one's tokens are others, so that a cache of
    prefixes does not know the prompt."""
    warm_up(engine, prompt_ids[: -SETTLING_TOKENS - 1 : -1], 1, 1)
    return time_request(engine, prompt_ids, new_tokens, clock)


def _log_ratios(candidate: RequestTiming, reference: RequestTiming) -> dict[str, float]:
    ratios = {
        "ttft_ratio": math.log(candidate.ttft / reference.ttft),
        "e2e_ratio": math.log(candidate.e2e / reference.e2e),
    }
    if candidate.tpot and reference.tpot:
        ratios["tpot_ratio"] = math.log(candidate.tpot / reference.tpot)
    return ratios | {name.replace("ratio", "mean_ratio"): x for name, x in ratios.items()}


def _lists(timing: RequestTiming) -> dict[str, list[float]]:
    times = asdict(timing)
    single = {name: [times[name]] for name in ("ttft", "tpot", "e2e") if times[name] is not None}
    return {**single, "itl": timing.itl}


class SlowedEngine:
    """An engine that takes ``factor`` times as long, by real work: a regression made to order.

    After each token it computes for (factor − 1) times as long as the token took. It computes
    rather than sleeps, so that it heats and contends as a slower model would. Everything but
    streaming is the wrapped engine's.
    """

    def __init__(
        self, engine: StreamingEngine, factor: float, clock: Clock = time.perf_counter
    ) -> None:
        if not factor >= 1:
            raise ValueError(f"the slow-down factor is {factor}; it takes at least 1")
        self.name = engine.name
        self.device = engine.device
        self._engine = engine
        self._factor = factor
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]:
        """The engine's tokens, each ``factor`` times as long in coming."""
        started = self._clock()
        for event in self._engine.stream(prompt_ids, max_new_tokens):
            self._work_until(started + self._factor * (self._clock() - started))
            yield TokenEvent(event.token_id, self._clock())
            started = self._clock()

    def _work_until(self, deadline: float) -> None:
        value = 1.0
        while self._clock() < deadline:
            value = math.sqrt(value + 1.0)  # any computation will do
