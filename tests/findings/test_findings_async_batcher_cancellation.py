"""async-batcher 0.2.2: a caller that gives up strands its neighbours.

`_batch_run` calls set_result on each future of the batch, done or not. The one of a cancelled
caller, as ``asyncio.timeout`` around process() makes them, raises InvalidStateError: the task ends,
callers behind it never get their results, and the entry in ``_running_batches`` stays. Found by
BatcherSuite.test_a_caller_cancelled_while_it_is_served_leaves_the_others_alone and its neighbours
(tests/third_party/test_third_party_batchers.py).
"""

from __future__ import annotations

import asyncio

from async_batchers import Batching
from virtual_time import run_deaf


def test_a_neighbour_of_a_cancelled_caller_waits_for_ever() -> None:
    async def slow(items: list[int]) -> list[int]:
        await asyncio.sleep(5.0)
        return items

    async def ask() -> bool:
        batcher = Batching(slow)
        gone = asyncio.create_task(batcher.process(1))
        left = asyncio.create_task(batcher.process(2))
        await asyncio.sleep(1.0)
        gone.cancel()
        await asyncio.sleep(1000.0)
        return left.done()

    assert not run_deaf(ask()), "callers may give up now: drop its expected failures"
