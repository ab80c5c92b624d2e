"""smartbatch 0.4.0: a caller that gives up while a failed batch is retried strands its neighbours.

After an error, items are tried one by one. `_process_fallback_individually` calls set_result on the
future of a caller who has gone, and set_exception on it in the handler: InvalidStateError ends the
retries, and the batch is dropped with those that still wait. No public thread found. Breaks
BatcherSuite.test_a_caller_cancelled_while_it_is_served_leaves_the_others_alone.
"""

from __future__ import annotations

import asyncio

from recorded import recorded
from virtual_time import run_deaf

smartbatch = recorded("smartbatch", "smartbatch>=0.4,<0.5")


def test_a_neighbour_of_a_cancelled_caller_waits_for_ever() -> None:
    async def one_by_one(items: list[int]) -> list[int]:
        if len(items) > 1:
            raise ValueError(items)
        await asyncio.sleep(5.0)
        return items

    async def ask() -> bool:
        submit = smartbatch.batch(max_batch_size=2)(one_by_one)
        gone = asyncio.create_task(submit(1))
        left = asyncio.create_task(submit(2))
        await asyncio.sleep(1.0)
        gone.cancel()
        await asyncio.sleep(1000.0)
        return left.done()

    assert not run_deaf(ask())
