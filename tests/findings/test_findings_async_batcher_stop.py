"""async-batcher 0.2.2: stop() returns while batches still run.

It waits for the task that takes items from the queue, and that one ends when the queue is empty;
the batches it has made are tasks of their own, which nobody awaits. A program that ends after
``await batcher.stop()`` cancels them, and their callers with them. Found by
BatcherSuite.test_a_stop_that_drains_serves_all (tests/third_party/test_third_party_batchers.py).
"""

from __future__ import annotations

import asyncio

from async_batchers import Batching
from infopt_suites.batching.clock import run_virtual


def test_a_caller_is_still_waiting_when_stop_returns() -> None:
    async def slow(items: list[int]) -> list[int]:
        await asyncio.sleep(50.0)
        return items

    async def ask() -> bool:
        batcher = Batching(slow)
        callers = [asyncio.create_task(batcher.process(item)) for item in (1, 2)]
        await asyncio.sleep(1.0)
        await batcher.stop()
        return any(caller.done() for caller in callers)

    assert not run_virtual(ask()), "stop() awaits its batches now: drop its expected failure"
