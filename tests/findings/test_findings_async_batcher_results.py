"""async-batcher 0.2.2: results of some kinds strand the callers of their batch.

`_batch_run` hands every ``Exception`` that process_batch raises to the callers. CancelledError is
none: it ends the task, and the callers wait for ever. The same happens outside of what is guarded:
StopIteration among the results, which `Future.set_exception` refuses with TypeError. And a text of
the right length is taken for one result each. Found by
BatcherSuite.test_an_end_of_any_kind_leaves_nobody_waiting,
test_an_exception_among_the_results_fails_its_item_alone and
test_what_is_no_list_of_results_fails_the_call (tests/third_party/test_third_party_batchers.py).
"""

from __future__ import annotations

import asyncio
from typing import Any

from async_batchers import Batching
from virtual_time import run_deaf


def outcomes(results: Any) -> list[Any]:
    """What two callers of a batch get within 1000 seconds, None for nothing."""

    async def answer(items: list[int]) -> Any:
        if isinstance(results, BaseException):
            raise results
        return results

    async def ask() -> list[Any]:
        batcher = Batching(answer)
        tasks = [asyncio.create_task(batcher.process(item)) for item in (1, 2)]
        await asyncio.wait(tasks, timeout=1000.0)
        return [task.result() if task.done() else None for task in tasks]

    return run_deaf(ask())


def test_callers_of_a_cancelled_call_wait_for_ever() -> None:
    assert outcomes(asyncio.CancelledError()) == [None, None], "drop its expected failure"


def test_callers_behind_a_stop_iteration_wait_for_ever() -> None:
    assert outcomes([StopIteration(), "mine"]) == [None, None], "drop its expected failure"


def test_callers_get_the_letters_of_a_text() -> None:
    assert outcomes("no") == ["n", "o"], "drop its expected failure"
