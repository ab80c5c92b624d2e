"""Planted faults of the throughput gate: each is found by a check that the sound gate passes.

A fault replaces what the gate takes from its own module; the checks know times and counts from the
engines' own, on virtual time.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from infopt_reference.measurement import LoadResult, LoadSummary, Objective, open_load
from infopt_suites.gates.throughput import measure as gate
from timed_engine import PLAN, TimedEngine, measured, virtual_time

from pytest_infopt.errors import InvalidComparisonError

AREA = "7 throughput"
REQUEST = 1 + 4 * 0.25  # seconds of the engine
RATE = 5 / REQUEST


def rates(sample: Any, side: str = "candidate") -> Any:
    return pytest.approx(sample.details["tokens_per_second"][side], rel=1e-3)


# Checks


def rates_and_ratio_are_those_of_the_engines() -> None:
    sample = measured(TimedEngine("r", gap=0.5), TimedEngine("c")).pair(0, True)
    assert rates(sample) == [RATE, 4 * RATE]
    assert rates(sample, "reference") == [5 / 3, 4 * 5 / 3]
    assert sample.values["throughput_ratio"] == pytest.approx(math.log(3 / REQUEST), rel=1e-3)


def every_concurrency_counts() -> None:
    sample = measured(TimedEngine("r"), TimedEngine("c", parallel=1)).pair(0, True)
    assert sample.values["throughput_ratio"] == pytest.approx(math.log(20 / 32), rel=1e-3)
    sample = measured(TimedEngine("r", parallel=1), TimedEngine("c")).pair(0, True)
    assert sample.values["throughput_ratio"] == pytest.approx(math.log(32 / 20), rel=1e-3)


def warming_up_does_not_count() -> None:
    for cold in ((4, 0), (0, 4)):
        reference, candidate = (TimedEngine(str(i), cold=n) for i, n in enumerate(cold))
        measure = measured(reference, candidate)
        measure.warm_up()
        sample = measure.pair(0, True)
        assert rates(sample, "reference") == [RATE, 4 * RATE]
        assert rates(sample) == [RATE, 4 * RATE]


def tokens_of_a_chunk_all_count() -> None:
    sample = measured(TimedEngine("r"), TimedEngine("c", chunk=5)).pair(0, True)
    assert rates(sample) == [5.0, 20.0]  # all five come after a second


def failed_and_short_answers_are_no_work() -> None:
    for candidate in (TimedEngine("c", fails=3), TimedEngine("c")):
        candidate.short = candidate.fails < 0
        with refused():
            measured(TimedEngine("r"), candidate).pair(0, True)
        assert candidate.opened == 0


def refused() -> Any:
    """As `pytest.raises`, whose own failure is no AssertionError."""

    class Refused:
        def __enter__(self) -> None:
            pass

        def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
            assert kind is InvalidComparisonError
            return True

    return Refused()


def the_coin_says_who_is_first() -> None:
    for candidate_first in (True, False):
        reference, candidate = TimedEngine("r"), TimedEngine("c")
        order: list[str] = []
        for engine in (reference, candidate):
            engine.open_streams = _told(engine, order)  # type: ignore[method-assign]
        measured(reference, candidate).pair(0, candidate_first)
        assert (order[0] == "c") is candidate_first


def _told(engine: TimedEngine, order: list[str]) -> Callable[[int], Awaitable[None]]:
    opened = engine.open_streams

    async def told(count: int) -> None:
        order.append(engine.name)
        await opened(count)

    return told


def both_are_asked_alike_and_each_pair_anew() -> None:
    reference, candidate = TimedEngine("r"), TimedEngine("c")
    measure = measured(reference, candidate)
    measure.pair(0, True)
    first = set(candidate.prompts)
    alike = sorted(reference.prompts) == sorted(candidate.prompts)
    assert alike  # pytest would take minutes to show where so long prompts differ
    assert len(first) == PLAN.requests
    measure.pair(1, False)
    assert not first & set(candidate.prompts[2 * PLAN.requests :])


def as_many_clients_as_asked_for() -> None:
    candidate = TimedEngine("c", parallel=99)
    measured(TimedEngine("r"), candidate).pair(0, False)
    loads = candidate.began[: PLAN.requests], candidate.began[PLAN.requests :]
    for began, clients in zip(loads, PLAN.concurrency, strict=True):
        assert max(sum(abs(t - u) < 0.5 for u in began) for t in began) == clients


def a_slow_server_keeps_no_objective() -> None:
    quick = measured(TimedEngine("r"), TimedEngine("c", parallel=99)).objective(0)
    assert quick.values["objective_share"] == 1.0
    slow = measured(TimedEngine("r"), TimedEngine("c", parallel=1)).objective(0)
    assert slow.values["objective_share"] <= 2 / 8
    assert slow.details["goodput"] < 0.5 * quick.details["goodput"]


def both_limits_of_the_objective_count() -> None:
    for engine in (TimedEngine("c", gap=0.5, parallel=99), TimedEngine("c", cold=99, parallel=99)):
        assert measured(TimedEngine("r"), engine).objective(0).values["objective_share"] == 0


def failed_requests_keep_nothing() -> None:
    sample = measured(TimedEngine("r"), TimedEngine("c", parallel=99, fails=2)).objective(0)
    assert sample.values["objective_share"] == 7 / 8
    assert sample.details["failed"] == {"ConnectionError: cut": 1}
    assert sample.details["notes"] == ["failed requests: {'ConnectionError: cut': 1}"]


def each_open_load_arrives_anew() -> None:
    arrivals = []
    for index in (0, 1):
        candidate = TimedEngine("c", parallel=99)
        measured(TimedEngine("r"), candidate).objective(index)
        arrivals.append([t - candidate.began[0] for t in candidate.began])
    assert arrivals[0] != arrivals[1]


def the_rate_is_the_plans() -> None:
    lengths = []
    for index in range(40):
        candidate = TimedEngine("c", parallel=99)
        measured(TimedEngine("r"), candidate).objective(index)
        lengths.append(candidate.began[-1] - candidate.began[0])
    mean = sum(lengths) / len(lengths) / (PLAN.requests - 1)
    # The mean of 280 exponential gaps: six standard errors.
    assert mean == pytest.approx(1 / PLAN.rate, rel=6 / math.sqrt(280))


CHECKS = [
    rates_and_ratio_are_those_of_the_engines,
    every_concurrency_counts,
    warming_up_does_not_count,
    tokens_of_a_chunk_all_count,
    failed_and_short_answers_are_no_work,
    the_coin_says_who_is_first,
    both_are_asked_alike_and_each_pair_anew,
    as_many_clients_as_asked_for,
    a_slow_server_keeps_no_objective,
    both_limits_of_the_objective_count,
    failed_requests_keep_nothing,
    each_open_load_arrives_anew,
    the_rate_is_the_plans,
]

# Faults

Measure = gate.ThroughputMeasure
_pair, _closed, _send, _objective = (
    Measure.pair,
    Measure._closed,
    Measure._send,
    Measure.objective,
)


def _warm_up_one(self: Any) -> None:
    self._closed(self._candidate, self._plan.concurrency[-1], 0)


def _summary(**wrong: Callable[[LoadSummary, Sequence[LoadResult]], Any]) -> Any:
    """A `LoadSummary` that counts otherwise."""

    class Wrong(LoadSummary):
        @classmethod
        def of(cls, results: Sequence[LoadResult]) -> Any:
            sound = LoadSummary.of(results)
            return replace(sound, **{name: count(sound, results) for name, count in wrong.items()})

    return Wrong


def _chunks(sound: LoadSummary, results: Sequence[LoadResult]) -> int:
    return sum(1 + sum(gap > 0 for gap in r.timing.itl) for r in results if r.timing)


def _as_if_all_came(self: Any, engine: Any, clients: int, index: int) -> LoadSummary:
    return LoadSummary.of(gate.asyncio.run(self._run_closed(engine, clients, index)))


def _upside_down(self: Any, index: int, candidate_first: bool) -> Any:
    sample = _pair(self, index, candidate_first)
    return replace(sample, values={k: -v for k, v in sample.values.items()})


def _last_rate(self: Any, index: int, candidate_first: bool) -> Any:
    sample = _pair(self, index, candidate_first)
    told = sample.details["tokens_per_second"]
    ratio = math.log(told["candidate"][0] / told["reference"][0])
    return replace(sample, values={"throughput_ratio": ratio})


def _mean_of_rates(self: Any, index: int, candidate_first: bool) -> Any:
    sample = _pair(self, index, candidate_first)
    sums = {name: sum(rates) for name, rates in sample.details["tokens_per_second"].items()}
    ratio = math.log(sums["candidate"] / sums["reference"])
    return replace(sample, values={"throughput_ratio": ratio})


def _always_first(self: Any, index: int, candidate_first: bool) -> Any:
    return _pair(self, index, True)


def _one_client(self: Any, engine: Any, clients: int, index: int) -> LoadSummary:
    return _closed(self, engine, 1, index)


def _all_at_once(self: Any, engine: Any, clients: int, index: int) -> LoadSummary:
    return _closed(self, engine, self._plan.requests, index)


async def _same_prompts(self: Any, engine: Any, index: int, request: int) -> Any:
    return await _send(self, engine, 0, request)


async def _one_prompt(self: Any, engine: Any, index: int, request: int) -> Any:
    return await _send(self, engine, index, 0)


async def _own_prompts(self: Any, engine: Any, index: int, request: int) -> Any:
    return await _send(self, engine, index + 10 * (engine is self._candidate), request)


async def _never_closed(self: Any, engine: Any, clients: int, index: int) -> Any:
    await engine.open_streams(clients)
    results = await gate.closed_load(
        lambda request: self._send(engine, index, request),
        self._plan.requests,
        clients=clients,
        clock=gate.time.perf_counter,
    )
    if not any(result.error for result in results):
        engine.close_streams()
    return results


async def _waits_for_answers(send: Any, due: Sequence[float], **options: Any) -> Any:
    return await gate.closed_load(send, len(due), clients=1, clock=options["clock"])


async def _from_sending(send: Any, due: Sequence[float], **options: Any) -> Any:
    """Coordinated omission: so many under way at most, and the clock starts at sending."""
    results = await open_load(send, due, concurrency=1, **options)
    return [
        replace(each, timing=each.timing and replace(each.timing, ttft=each.timing.ttft - wait))
        for each in results
        for wait in [each.sent - each.due]
    ]


async def _without_failed(send: Any, due: Sequence[float], **options: Any) -> Any:
    return [each for each in await open_load(send, due, **options) if each.timing]


class _FailedAreFast(Objective):
    def keeps(self, timing: Any) -> bool:
        return timing is None or super().keeps(timing)


class _FirstTokenAlone(Objective):
    def keeps(self, timing: Any) -> bool:
        return Objective(ttft=self.ttft).keeps(timing)


class _LaterTokensAlone(Objective):
    def keeps(self, timing: Any) -> bool:
        return Objective(tpot=self.tpot).keeps(timing)


def _goodput_of_all(self: Any, index: int) -> Any:
    sample = _objective(self, index)
    share = sample.values["objective_share"] or 1.0
    return replace(sample, details=sample.details | {"goodput": sample.details["goodput"] / share})


_poisson = gate.poisson
MUTANTS: dict[str, tuple[Any, str, Any, Callable[[], None]]] = {
    "nothing is warmed up": (Measure, "warm_up", lambda self: None, warming_up_does_not_count),
    "the candidate alone is warmed up": (
        Measure,
        "warm_up",
        _warm_up_one,
        warming_up_does_not_count,
    ),
    "tokens counted twice": (
        gate,
        "LoadSummary",
        _summary(tokens=lambda sound, results: 2 * sound.tokens),
        rates_and_ratio_are_those_of_the_engines,
    ),
    "a chunk is a token": (
        gate,
        "LoadSummary",
        _summary(tokens=_chunks),
        tokens_of_a_chunk_all_count,
    ),
    "seconds up to the last request's start": (
        gate,
        "LoadSummary",
        _summary(seconds=lambda sound, results: max(r.sent for r in results) + 1e-3),
        rates_and_ratio_are_those_of_the_engines,
    ),
    "failures are not counted": (
        Measure,
        "_closed",
        _as_if_all_came,
        failed_and_short_answers_are_no_work,
    ),
    "the ratio upside down": (
        Measure,
        "pair",
        _upside_down,
        rates_and_ratio_are_those_of_the_engines,
    ),
    "the first concurrency alone": (Measure, "pair", _last_rate, every_concurrency_counts),
    "a ratio of summed rates": (Measure, "pair", _mean_of_rates, every_concurrency_counts),
    "the candidate always first": (Measure, "pair", _always_first, the_coin_says_who_is_first),
    "one client": (Measure, "_closed", _one_client, as_many_clients_as_asked_for),
    "all requests at once": (Measure, "_closed", _all_at_once, as_many_clients_as_asked_for),
    "each pair asks the same": (
        Measure,
        "_send",
        _same_prompts,
        both_are_asked_alike_and_each_pair_anew,
    ),
    "one prompt": (Measure, "_send", _one_prompt, both_are_asked_alike_and_each_pair_anew),
    "prompts of their own": (
        Measure,
        "_send",
        _own_prompts,
        both_are_asked_alike_and_each_pair_anew,
    ),
    "connections stay open": (
        Measure,
        "_run_closed",
        _never_closed,
        failed_and_short_answers_are_no_work,
    ),
    "an open load waits for answers": (
        gate,
        "open_load",
        _waits_for_answers,
        a_slow_server_keeps_no_objective,
    ),
    "timed from sending": (gate, "open_load", _from_sending, a_slow_server_keeps_no_objective),
    "failed requests left out": (gate, "open_load", _without_failed, failed_requests_keep_nothing),
    "failed requests are fast ones": (
        gate,
        "Objective",
        _FailedAreFast,
        failed_requests_keep_nothing,
    ),
    "the first token alone": (
        gate,
        "Objective",
        _FirstTokenAlone,
        both_limits_of_the_objective_count,
    ),
    "later tokens alone": (
        gate,
        "Objective",
        _LaterTokensAlone,
        both_limits_of_the_objective_count,
    ),
    "goodput of all requests": (
        Measure,
        "objective",
        _goodput_of_all,
        a_slow_server_keeps_no_objective,
    ),
    "one arrival process for all loads": (
        gate,
        "poisson",
        lambda rate, count, seed: _poisson(rate, count, seed=0),
        each_open_load_arrives_anew,
    ),
    "twice the rate": (
        gate,
        "poisson",
        lambda rate, count, seed: _poisson(2 * rate, count, seed=seed),
        the_rate_is_the_plans,
    ),
}


@pytest.fixture(autouse=True)
def on_virtual_time() -> Iterator[None]:
    with virtual_time():
        yield


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_sound_gate_passes(check: Callable[[], None], counted: Any) -> None:
    counted("sound", AREA)
    check()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch, counted: Any) -> None:
    counted("mutant", AREA)
    owner, attribute, fault, check = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, fault)
    with pytest.raises((AssertionError, InvalidComparisonError)):
        check()
