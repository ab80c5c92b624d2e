"""Virtual time passes as asyncio's own would, and what hangs, spins or dies is noticed."""

from __future__ import annotations

import asyncio
import importlib
import math
import queue
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_suites.batching import watchdog
from infopt_suites.batching.clock import (
    LATENESS,
    BlockingError,
    StuckError,
    VirtualClock,
    run_virtual,
)
from infopt_suites.wall_clock import on_virtual_time, virtual_time

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
    for moment, index in woken:
        late = moment - delays[index]  # float64 rounds sums of up to 1000 s
        assert -math.ulp(1000.0) <= late <= len(delays) * (math.ulp(1000.0) + LATENESS)
    assert [moment for moment, _ in woken] == sorted(moment for moment, _ in woken)


def test_a_timeout_ends_when_it_says() -> None:
    async def wait() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600.0):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert 3600.0 <= run_virtual(wait()) <= 3600.0 + LATENESS


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


CLOCKS = ("time", "monotonic", "perf_counter", "time_ns", "monotonic_ns", "perf_counter_ns")


@pytest.fixture
def by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that has imported the clocks under names of its own."""
    lines = [f"from time import {name} as my_{name}" for name in (*CLOCKS, "sleep")]
    (tmp_path / "clocks_by_name.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("clocks_by_name")


@pytest.mark.parametrize("name", CLOCKS)
def test_every_clock_of_python_follows_the_loop(name: str, by_name: ModuleType) -> None:
    real = getattr(time, name)
    unit = 1e9 if name.endswith("_ns") else 1.0

    async def wait() -> list[float]:
        clocks: list[Callable[[], float]] = [getattr(time, name), getattr(by_name, "my_" + name)]
        before = [clock() for clock in clocks]
        await asyncio.sleep(3600.0)
        return [(clock() - b) / unit for clock, b in zip(clocks, before, strict=True)]

    for waited in run_virtual(wait()):
        assert waited == pytest.approx(3600.0, abs=1e-5)
    assert getattr(time, name) is real
    assert getattr(by_name, "my_" + name) is real


def test_the_calendar_is_of_today_on_every_machine() -> None:
    async def ask() -> float:
        return time.time()

    assert run_virtual(ask()) == run_virtual(ask()) > 1.7e9


@settings(deadline=None, max_examples=200)
@given(
    name=st.sampled_from(("time", "monotonic", "perf_counter")),
    start=st.floats(0.0, 10_000.0),
    seconds=st.floats(1e-6, 1000.0),
)
def test_who_waits_until_a_deadline_finds_it_passed(
    name: str, start: float, seconds: float
) -> None:
    async def wait() -> float:
        await asyncio.sleep(start)
        clock = getattr(time, name)
        deadline = clock() + seconds
        await asyncio.sleep(deadline - clock())
        return float(deadline - clock())

    assert run_virtual(wait()) <= 0.0


def test_other_threads_and_pythons_own_modules_see_the_real_clocks() -> None:
    seen: list[float] = []
    real = time.monotonic
    modules: Any = (threading, queue)

    async def look() -> list[Any]:
        await asyncio.sleep(1e4)
        thread = threading.Thread(target=lambda: seen.append(time.monotonic()))
        before = real()
        thread.start()
        thread.join()
        assert before <= seen[0] <= real()
        return [modules[0]._time, modules[1].time]

    assert run_virtual(look()) == [real, real]


def test_a_synchronous_sleep_lets_time_pass(by_name: ModuleType) -> None:
    async def sleep() -> float:
        time.sleep(100.0)
        by_name.my_sleep(1000.0)
        return asyncio.get_running_loop().time()

    assert run_virtual(sleep()) == pytest.approx(1100.0, abs=1e-5)


def polls() -> None:
    while True:
        time.sleep(0.001)


def spins() -> None:
    while sys is not None:
        pass


def waits_for_a_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def waits_for_an_item() -> None:
    queue.Queue[int]().get()


def goes_on_after_errors() -> None:
    while True:
        try:
            waits_for_a_lock()
        except Exception:  # as servers do
            continue


@pytest.mark.parametrize(
    "blocks", [polls, spins, waits_for_a_lock, waits_for_an_item, goes_on_after_errors]
)
@pytest.mark.parametrize("in_a_task", [False, True])
def test_whoever_keeps_the_thread_is_named(
    blocks: Callable[[], None], in_a_task: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "HANG", 0.2)
    monkeypatch.setattr(watchdog, "LOOK", 0.02)

    async def block() -> None:
        blocks()

    async def begin() -> None:
        if in_a_task:
            await asyncio.create_task(block())
        else:
            await asyncio.to_thread(blocks)

    named = "waits_for_a_lock" if blocks is goes_on_after_errors else blocks.__name__
    with pytest.raises(BlockingError, match=f"{named} .*test_suites_batching_clock.py:"):
        run_virtual(begin())


def test_a_run_is_not_blamed_for_the_time_since_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two loops with equally many turns, and a pause between them that is longer than a hang."""
    monkeypatch.setattr(watchdog, "HANG", 0.2)
    monkeypatch.setattr(watchdog, "LOOK", 0.02)
    watch, signals = watchdog._Watch(), list[int]()
    monkeypatch.setattr(watchdog.signal, "pthread_kill", lambda *to: signals.append(1))
    looked = threading.Event()

    def turns() -> int:
        looked.set()
        return 5

    for _ in range(2):
        looked.clear()
        watch.begin(turns)
        assert looked.wait(10)
        watch.end()
        time.sleep(2 * watchdog.HANG)
    assert not signals


def test_what_blocks_again_and_again_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "HANG", 0.2)
    monkeypatch.setattr(watchdog, "LOOK", 0.02)
    runs, blocked = 0, list[str]()

    async def block() -> None:
        nonlocal runs
        runs += 1
        waits_for_a_lock()

    for _ in range(5):
        with pytest.raises(BlockingError, match="waits_for_a_lock"):
            run_virtual(block(), blocked)
    assert runs == 2


def test_another_thread_sees_virtual_time_in_what_was_made_for_it() -> None:
    with ThreadPoolExecutor(1) as pool, virtual_time(lambda: 1000.0, time.sleep):
        assert pool.submit(on_virtual_time(time.time)).result() == time.time()
        assert pool.submit(time.time).result() != time.time()


def test_threads_are_named_where_nothing_happens() -> None:
    done = threading.Event()

    async def wait() -> None:
        threading.Thread(target=done.wait, name="a worker", daemon=True).start()
        await asyncio.Event().wait()

    with pytest.raises(StuckError, match=r"threads \(a worker\)"):
        run_virtual(wait())
    done.set()
