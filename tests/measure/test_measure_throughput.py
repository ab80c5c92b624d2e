"""Loads on engines with known times: tokens a second, objectives kept, work that differs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from timed_engine import TimedEngine, measured, virtual_time

from pytest_infopt.errors import InvalidComparisonError


@pytest.fixture(autouse=True)
def on_virtual_time() -> Iterator[None]:
    with virtual_time():
        yield


@pytest.mark.parametrize("candidate_first", [True, False])
def test_tokens_a_second_at_each_concurrency(candidate_first: bool) -> None:
    sample = measured(TimedEngine("r"), TimedEngine("c", gap=0.5)).pair(0, candidate_first)
    request = {"reference": 1 + 4 * 0.25, "candidate": 1 + 4 * 0.5}  # seconds
    for name, seconds in request.items():
        found = sample.details["tokens_per_second"][name]
        assert found == pytest.approx([5 / seconds, 4 * 5 / seconds], rel=1e-3)
    ratio = request["reference"] / request["candidate"]
    assert sample.values["throughput_ratio"] == pytest.approx(math.log(ratio), rel=1e-3)


def test_a_server_that_serves_one_at_a_time_gains_nothing_by_clients() -> None:
    sample = measured(TimedEngine("r"), TimedEngine("c", parallel=1)).pair(0, True)
    one, four = sample.details["tokens_per_second"]["candidate"]
    assert one == pytest.approx(four, rel=1e-3)
    # 8 requests of 2 s, twice one by one; the reference serves four at once
    assert sample.values["throughput_ratio"] == pytest.approx(math.log(20 / 32), rel=1e-3)


@pytest.mark.parametrize("fault", ["fails", "short"])
def test_times_of_different_work_are_not_compared(fault: str) -> None:
    candidate = TimedEngine("c", fails=3 if fault == "fails" else -1)
    candidate.short = fault == "short"
    with pytest.raises(InvalidComparisonError, match=r"engine 'c' at concurrency 1: "):
        measured(TimedEngine("r"), candidate).pair(0, True)


def test_an_objective_counts_the_wait_for_a_server_that_is_too_slow() -> None:
    quick = measured(TimedEngine("r"), TimedEngine("c", parallel=99)).objective(0)
    assert quick.values["objective_share"] == 1.0
    slow = measured(TimedEngine("r"), TimedEngine("c", parallel=1)).objective(0)
    assert slow.values["objective_share"] <= 2 / 8  # each request takes twice the mean gap
    assert slow.details["goodput"] < quick.details["goodput"]


def test_requests_that_fail_do_not_keep_an_objective() -> None:
    sample = measured(TimedEngine("r"), TimedEngine("c", parallel=99, fails=2)).objective(0)
    assert sample.values["objective_share"] == 7 / 8
    assert sample.details["failed"] == {"ConnectionError: cut": 1}
    assert sample.details["notes"]
