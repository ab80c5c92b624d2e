"""batched 0.1.5: a batch function that ends with CancelledError ends the batcher.

`AsyncBatchProcessor._process_batches` hands every ``Exception`` to the callers of the batch.
CancelledError is none: it ends the only worker, the callers wait for ever, and so does whoever
comes later, for a new worker is made only once. A request with a cancel scope of its own (anyio, an
HTTP client that is closed) inside the batch function is enough. Found by
BatcherSuite.test_an_end_of_any_kind_leaves_nobody_waiting
(tests/third_party/test_third_party_batchers.py).
"""

from __future__ import annotations

import asyncio
from typing import Any

from batched.aio import AsyncBatchProcessor
from infopt_suites.batching.clock import run_virtual


def test_nobody_is_served_after_a_cancelled_call() -> None:
    async def batch_function(items: list[int]) -> list[int]:
        if 0 in items:
            raise asyncio.CancelledError
        return items

    async def ask() -> set[asyncio.Task[Any]]:
        processor: Any = AsyncBatchProcessor(batch_function, batch_size=2, timeout_ms=10)
        first = asyncio.create_task(processor(0))
        await asyncio.sleep(1.0)
        later = asyncio.create_task(processor(1))
        await asyncio.sleep(1000.0)
        return {task for task in (first, later) if not task.done()}

    assert len(run_virtual(ask())) == 2, "batched survives it: drop its expected failure"
