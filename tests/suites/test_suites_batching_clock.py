"""Virtual time passes as asyncio's own would, and what hangs, spins or dies is noticed."""

from __future__ import annotations

import asyncio
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_suites.batching.clock import StuckError, VirtualClock, run_virtual

DELAYS = st.lists(st.floats(0.0, 1000.0), min_size=1, max_size=8)


@settings(deadline=None, max_examples=50)
@given(delays=DELAYS)
def test_sleepers_wake_in_the_order_of_their_times_and_at_these_times(delays: list[float]) -> None:
    async def sleep() -> list[tuple[float, int]]:
        loop = asyncio.get_running_loop()
        woken: list[tuple[float, int]] = []

        async def sleeper(index: int) -> None:
            await asyncio.sleep(delays[index])
            woken.append((loop.time(), index))

        await asyncio.gather(*map(sleeper, range(len(delays))))
        return woken

    woken = run_virtual(sleep())
    resolution = time.get_clock_info("monotonic").resolution
    for moment, index in woken:
        late = moment - delays[index]  # float64 rounds sums of up to 1000 s
        assert -resolution <= late <= len(delays) * math.ulp(1000.0) + resolution
    assert [moment for moment, _ in woken] == sorted(moment for moment, _ in woken)


def test_a_timeout_ends_when_it_says() -> None:
    async def wait() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600.0):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_virtual(wait()) == 3600.0


def test_whoever_waits_for_ever_is_named() -> None:
    async def wait() -> None:
        await asyncio.create_task(asyncio.Event().wait(), name="the forgotten one")

    with pytest.raises(StuckError, match="the forgotten one"):
        run_virtual(wait())


def test_a_loop_that_never_rests_is_stopped() -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(StuckError, match="without a pause"):
        run_virtual(spin())


def test_a_wait_that_polls_for_ever_is_stopped() -> None:
    async def poll() -> None:
        while True:
            await asyncio.sleep(10.0)

    with pytest.raises(StuckError, match="virtual time"):
        run_virtual(poll())


def test_a_task_that_died_unseen_is_told() -> None:
    async def die() -> None:
        raise ValueError("nobody looks")

    async def begin() -> None:
        task = asyncio.create_task(die())
        await asyncio.sleep(1.0)
        del task

    with pytest.raises(AssertionError, match="nobody looks"):
        run_virtual(begin())


def test_a_callback_that_raised_is_told() -> None:
    async def call() -> None:
        asyncio.get_running_loop().call_later(1.0, math.sqrt, -1.0)
        await asyncio.sleep(2.0)

    with pytest.raises(AssertionError, match="math domain error"):
        run_virtual(call())


def test_an_exception_that_was_awaited_is_nobody_elses_matter() -> None:
    async def die() -> None:
        raise ValueError("seen")

    async def look() -> str:
        try:
            await asyncio.create_task(die())
        except ValueError as error:
            return str(error)
        return ""

    assert run_virtual(look()) == "seen"


def test_what_goes_to_a_thread_happens_at_once() -> None:
    async def work() -> tuple[int, float]:
        found = await asyncio.to_thread(sum, [1, 2])
        return found, asyncio.get_running_loop().time()

    assert run_virtual(work()) == (3, 0.0)


def test_closing_ends_tasks_that_go_on_when_they_are_cancelled() -> None:
    ended: list[bool] = []

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            try:
                await asyncio.sleep(5.0)  # longer than closing waits for it
            finally:
                ended.append(True)

    clock = VirtualClock()

    async def begin() -> asyncio.Task[None]:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(1.0)
        return task

    task = clock.run(begin())
    clock.close()
    assert task.done()
    assert ended == [True]


def test_turns_are_counted() -> None:
    clock = VirtualClock()
    clock.run(asyncio.sleep(1.0))
    before = clock.loop.turns
    clock.run(asyncio.sleep(1000.0))
    few = clock.loop.turns - before

    async def poll() -> None:
        for _ in range(100):
            await asyncio.sleep(1.0)

    before = clock.loop.turns
    clock.run(poll())
    assert clock.loop.turns - before >= few + 99
    clock.close()
