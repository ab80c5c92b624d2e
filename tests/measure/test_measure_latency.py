"""Timing on a fake clock: definitions, order, chunks, faults."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measure_fakes import FakeClock, ScriptedEngine

from pytest_infopt.engines.base import TokenEvent
from pytest_infopt.errors import InfoptError, InvalidComparisonError
from pytest_infopt.measure.timing import (
    SlowedEngine,
    measure_pair,
    time_request,
    warm_up,
)

# Sums of these are exact in binary, so that times can be compared for equality.
exact_delays = st.integers(0, 2**16).map(lambda ticks: ticks / 2**10)


def test_the_first_tokens_delay_is_ttft_and_no_inter_token_latency(clock: FakeClock) -> None:
    timing = time_request(ScriptedEngine("e", clock, [1.0, 0.25, 0.5, 0.25]), [1], 4, clock)
    assert timing.ttft == 1.0
    assert timing.itl == [0.25, 0.5, 0.25]
    assert timing.tpot == 1.0 / 3
    assert timing.e2e == 2.0
    assert timing.token_ids == [10, 11, 12, 13]


@given(st.lists(exact_delays, min_size=1, max_size=20))
@settings(deadline=None)
def test_times_add_up(delays: list[float]) -> None:
    delays[0] += 1
    clock = FakeClock()
    timing = time_request(ScriptedEngine("e", clock, delays), [1], len(delays), clock)
    assert timing.ttft + sum(timing.itl) == timing.e2e == sum(delays)
    assert len(timing.itl) == len(timing.token_ids) - 1
    if len(delays) > 1:
        assert timing.tpot == sum(delays[1:]) / (len(delays) - 1)
    else:
        assert timing.tpot is None


def test_tokens_of_one_chunk_are_counted_one_by_one(clock: FakeClock) -> None:
    timing = time_request(ScriptedEngine("e", clock, [1.0, 0.0, 0.0, 0.75, 0.0]), [1], 5, clock)
    assert timing.itl == [0.0, 0.0, 0.75, 0.0]
    assert timing.tpot == 0.75 / 4


def test_prefill_does_not_enter_the_decode_rate(clock: FakeClock) -> None:
    short = time_request(ScriptedEngine("e", clock, [0.5, 0.25, 0.25]), [1], 3, clock)
    long = time_request(ScriptedEngine("e", clock, [64.0, 0.25, 0.25]), [1] * 99, 3, clock)
    assert short.tpot == long.tpot


class SlowReader(ScriptedEngine):
    """Tokens that were stamped well before the reader takes them."""

    def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]:
        for event in super().stream(prompt_ids, max_new_tokens):
            self.clock.advance(8.0)
            yield event


def test_a_tokens_own_stamp_counts_not_when_it_was_read(clock: FakeClock) -> None:
    timing = time_request(SlowReader("e", clock, [1.0]), [1], 1, clock)
    assert timing.ttft == 1.0


def test_an_engine_without_an_answer_is_an_error(clock: FakeClock) -> None:
    with pytest.raises(InfoptError, match="no token"):
        time_request(ScriptedEngine("mute", clock, []), [1], 3, clock)


def test_stamps_of_another_clock_are_an_error(clock: FakeClock) -> None:
    with pytest.raises(InfoptError, match="perf_counter"):
        time_request(ScriptedEngine("e", FakeClock(), [1.0]), [1], 1, lambda: 1e9)


class CollectorWatch(ScriptedEngine):
    enabled: bool | None = None

    def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]:
        self.enabled = gc.isenabled()
        return super().stream(prompt_ids, max_new_tokens)


@pytest.mark.parametrize("before", [True, False])
def test_the_garbage_collector_rests_while_a_request_runs(clock: FakeClock, before: bool) -> None:
    engine = CollectorWatch("e", clock, [1.0])
    was_enabled = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()
        time_request(engine, [1], 1, clock)
        assert engine.enabled is False
        assert gc.isenabled() is before
        engine.delays = []
        with pytest.raises(InfoptError):
            time_request(engine, [1], 1, clock)
        assert gc.isenabled() is before
    finally:
        (gc.enable if was_enabled else gc.disable)()


# Pairs


def test_a_pair_holds_log_ratios_and_the_candidates_times(clock: FakeClock) -> None:
    reference = ScriptedEngine("reference", clock, [1.0, 0.5, 0.5])
    candidate = ScriptedEngine("candidate", clock, [2.0, 0.25, 0.25])
    sample = measure_pair(reference, candidate, [1], 3, False, "pair-7", clock)
    assert sample.unit == "pair-7"
    assert sample.values == {
        "ttft_ratio": math.log(2.0),
        "tpot_ratio": math.log(0.5),
        "e2e_ratio": math.log(2.5 / 2.0),
        "ttft_mean_ratio": math.log(2.0),
        "tpot_mean_ratio": math.log(0.5),
        "e2e_mean_ratio": math.log(2.5 / 2.0),
    }
    assert sample.tokens == {"ttft": [2.0], "tpot": [0.25], "e2e": [2.5], "itl": [0.25, 0.25]}
    assert sample.details["reference"] == {
        "ttft": [1.0], "tpot": [0.5], "e2e": [2.0], "itl": [0.5, 0.5],
    }  # fmt: skip


@pytest.mark.parametrize("candidate_first", [True, False])
def test_the_caller_decides_who_goes_first_and_nothing_else(
    clock: FakeClock, candidate_first: bool
) -> None:
    log: list[str] = []
    reference = ScriptedEngine("reference", clock, [1.0, 1.0], log)
    candidate = ScriptedEngine("candidate", clock, [4.0, 4.0], log)
    sample = measure_pair(reference, candidate, [1], 2, candidate_first, "u", clock)
    order = ["candidate", "reference"] if candidate_first else ["reference", "candidate"]
    assert log == [name for name in order for _ in ("untimed", "timed")]
    assert sample.values["ttft_ratio"] == math.log(4.0)
    assert sample.details["candidate_first"] is candidate_first


class LeavesTraces(ScriptedEngine):
    """What another engine asked before costs this one half a second."""

    def __init__(
        self, name: str, clock: FakeClock, asked: list[tuple[str, list[int], int]]
    ) -> None:
        super().__init__(name, clock, [1.0, 0.5, 0.5, 0.5])
        self.asked = asked

    def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]:
        if self.asked and self.asked[-1][0] != self.name:
            self.clock.advance(0.5)
        self.asked.append((self.name, list(prompt_ids), max_new_tokens))
        yield from super().stream(prompt_ids, max_new_tokens)


def test_what_one_engine_leaves_behind_is_charged_to_nobody(clock: FakeClock) -> None:
    asked: list[tuple[str, list[int], int]] = []
    reference, candidate = (LeavesTraces(name, clock, asked) for name in ("reference", "candidate"))
    for candidate_first in (True, False, False, True):
        sample = measure_pair(reference, candidate, [1, 3, 5], 4, candidate_first, "u", clock)
        assert set(sample.values.values()) == {0.0}
        assert sample.tokens["ttft"] == sample.details["reference"]["ttft"] == [1.0]
    untimed, timed = asked[::2], asked[1::2]
    assert {(tuple(prompt), tokens) for _, prompt, tokens in untimed} == {((5, 3), 1)}
    assert {(tuple(prompt), tokens) for _, prompt, tokens in timed} == {((1, 3, 5), 4)}


def test_different_numbers_of_tokens_are_no_pair(clock: FakeClock) -> None:
    reference = ScriptedEngine("reference", clock, [1.0, 1.0, 1.0])
    candidate = ScriptedEngine("candidate", clock, [1.0, 1.0])
    with pytest.raises(InvalidComparisonError, match=r"3 tokens asked.*generated 2.*reference' 3"):
        measure_pair(reference, candidate, [1], 3, False, "u", clock)


@pytest.mark.parametrize("delays", [[1.0], [1.0, 0.0, 0.0]])
def test_a_time_per_output_token_that_does_not_exist_is_left_out(
    clock: FakeClock, delays: list[float]
) -> None:
    engines = [ScriptedEngine(name, clock, delays) for name in ("reference", "candidate")]
    sample = measure_pair(*engines, [1], len(delays), False, "u", clock)
    assert set(sample.values) == {"ttft_ratio", "e2e_ratio", "ttft_mean_ratio", "e2e_mean_ratio"}


@pytest.mark.parametrize("delays", [[1.0], []], ids=["a token", "no token"])
def test_warm_up_makes_its_calls(clock: FakeClock, delays: list[float]) -> None:
    engine = ScriptedEngine("e", clock, delays)
    warm_up(engine, [1], 1, 3)
    assert engine.log == ["e"] * 3


def test_a_server_may_end_the_request_that_settles_it_at_once(clock: FakeClock) -> None:
    class EndsShortOnes(ScriptedEngine):
        def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]:
            events = super().stream(prompt_ids, max_new_tokens)
            yield from list(events) if max_new_tokens > 1 else ()

    engines = [EndsShortOnes(name, clock, [1.0, 2.0]) for name in ("reference", "candidate")]
    assert measure_pair(*engines, [1, 2, 3], 2, False, "u", clock).weight == 2


# The slowed engine


class TickingClock(FakeClock):
    """Every look at the clock takes a moment, as every computation does."""

    def __call__(self) -> float:
        self.now += 2.0**-12
        return self.now


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.0, 4.0])
def test_a_slowed_engine_takes_its_factor_in_every_token(factor: float) -> None:
    clock = TickingClock()
    engine = SlowedEngine(ScriptedEngine("e", clock, [1.0, 0.25, 0.5]), factor, clock)
    timing = time_request(engine, [1], 3, clock)
    looks = 16 * 2.0**-12  # a few looks at the clock around every token
    assert timing.ttft == pytest.approx(factor * 1.0, abs=factor * looks)
    assert timing.itl == pytest.approx([factor * 0.25, factor * 0.5], abs=factor * looks)
    assert timing.token_ids == [10, 11, 12]


def test_a_slowed_engine_is_otherwise_the_engine(clock: FakeClock) -> None:
    engine = ScriptedEngine("e", clock, [1.0])
    slowed = SlowedEngine(engine, 1.5, clock)
    assert (slowed.name, slowed.device) == ("e", "cpu")
    assert slowed.delays is engine.delays


@pytest.mark.parametrize("factor", [0.5, 0.0, -1.0, math.nan])
def test_an_engine_cannot_be_slowed_into_speed(clock: FakeClock, factor: float) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SlowedEngine(ScriptedEngine("e", clock, [1.0]), factor)
