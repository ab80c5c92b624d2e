"""Single flight on virtual time: who works, who waits, and what failures and cancellations do."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import async_solipsism
import pytest
from infopt_reference.caching import SingleFlight


def run(scenario: Awaitable[Any]) -> Any:
    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        return runner.run(scenario)  # type: ignore[arg-type]  # any coroutine


class Work:
    """Takes a second; fails the first ``fails`` times."""

    def __init__(self, fails: int = 0) -> None:
        self.begun = self.cancelled = 0
        self.fails = fails

    async def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if number <= self.fails:
            raise RuntimeError(f"failure {number}")
        return number


def test_equal_keys_work_once_and_different_ones_side_by_side() -> None:
    async def scenario() -> None:
        flights: SingleFlight[int] = SingleFlight()
        works = {key: Work() for key in "abc"}
        results = await asyncio.gather(*[flights.run(key, works[key]) for key in "abcabcaaa"])
        assert [result for result, _ in results] == [1] * 9
        assert [began for _, began in results] == [True] * 3 + [False] * 6
        assert all(work.begun == 1 for work in works.values())
        assert asyncio.get_running_loop().time() == 1
        assert await flights.run("a", works["a"]) == (2, True)  # what is over is over

    run(scenario())


def test_the_work_goes_on_without_the_one_who_began_it() -> None:
    async def scenario() -> None:
        flights: SingleFlight[int] = SingleFlight()
        work = Work()
        leader, *others = [asyncio.create_task(flights.run("a", work)) for _ in range(5)]
        await asyncio.sleep(0.5)
        leader.cancel()
        assert [await other for other in others] == [(1, False)] * 4
        assert leader.cancelled()
        assert (work.begun, work.cancelled) == (1, 0)
        assert asyncio.get_running_loop().time() == 1

    run(scenario())


def test_work_that_nobody_waits_for_is_cancelled() -> None:
    async def scenario() -> None:
        flights: SingleFlight[int] = SingleFlight()
        work = Work()
        tasks = [asyncio.create_task(flights.run("a", work)) for _ in range(3)]
        await asyncio.sleep(0.5)
        for task in tasks:
            task.cancel()
        late = asyncio.create_task(flights.run("a", work))  # before they have noticed
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await late == (work.begun, True) or await late == (1, False)
        await asyncio.sleep(2)
        assert work.begun - work.cancelled == 1
        assert flights._flights == {}

    run(scenario())


def test_who_comes_after_the_last_cancellation_begins_anew() -> None:
    async def scenario() -> None:
        flights: SingleFlight[int] = SingleFlight()
        work = Work()
        task = asyncio.create_task(flights.run("a", work))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task])
        assert await flights.run("a", work) == (2, True)
        assert (work.begun, work.cancelled) == (2, 1)

    run(scenario())


def test_a_failure_is_the_leaders_and_the_others_try_once_more_together() -> None:
    async def scenario() -> None:
        flights: SingleFlight[int] = SingleFlight()
        work = Work(fails=1)
        results = await asyncio.gather(
            *[flights.run("a", work) for _ in range(50)], return_exceptions=True
        )
        assert repr(results[0]) == "RuntimeError('failure 1')"
        assert sorted(results[1:]) == [(2, False)] * 48 + [(2, True)]
        assert work.begun == 2

    run(scenario())


def test_a_dead_backend_costs_each_request_two_failures_at_most() -> None:
    async def scenario() -> None:
        flights: SingleFlight[int] = SingleFlight()
        work = Work(fails=1000)
        results = await asyncio.gather(
            *[flights.run("a", work) for _ in range(50)], return_exceptions=True
        )
        assert [repr(result) for result in results] == (
            ["RuntimeError('failure 1')"] + ["RuntimeError('failure 2')"] * 49
        )
        assert asyncio.get_running_loop().time() == 2
        assert flights._flights == {}

    run(scenario())


def test_work_that_cancels_itself_cancels_nobody_who_only_waits() -> None:
    async def scenario() -> None:
        flights: SingleFlight[int] = SingleFlight()
        calls = 0

        async def work() -> int:
            nonlocal calls
            calls += 1
            await asyncio.sleep(1)
            if calls == 1:
                raise asyncio.CancelledError
            return calls

        tasks = [asyncio.create_task(flights.run("a", work)) for _ in range(4)]
        await asyncio.wait(tasks)
        assert tasks[0].cancelled()
        assert sorted(task.result() for task in tasks[1:]) == [(2, False), (2, False), (2, True)]

    run(scenario())


def test_a_flight_of_a_loop_that_was_stopped_is_not_joined() -> None:
    flights: SingleFlight[int] = SingleFlight()
    work = Work()
    stopped = async_solipsism.EventLoop()
    task = stopped.create_task(flights.run("a", work))
    stopped.run_until_complete(asyncio.wait([task], timeout=0.5))
    assert run(flights.run("a", work)) == (2, True)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        stopped.run_until_complete(task)
    stopped.close()
