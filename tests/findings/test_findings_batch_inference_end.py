"""batch-inference 1.0: a model that raises what is no Exception strands all callers, now and later.

`ModelHost._wait_batch_ready_and_process` catches Exception. CancelledError and SystemExit end the
worker's thread: its callers wait for ever, and so does whoever comes later. No public thread found.
Breaks BatcherSuite.test_an_end_of_any_kind_leaves_nobody_waiting.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from recorded import recorded

aio = recorded("batch_inference.aio", "batch-inference>=1.0,<1.1")
batchers = recorded("batch_inference.batcher", "batch-inference>=1.0,<1.1")


class Ends:
    def predict_batch(self, *arrays: Any) -> Any:
        raise asyncio.CancelledError


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_only_thread_ends_and_its_callers_wait() -> None:
    async def ask() -> bool:
        host = aio.ModelHost(model_obj=Ends(), batcher=Numbers(), max_batch_size=1)
        await host.start()
        caller = asyncio.ensure_future(host.predict(1))
        await asyncio.to_thread(host.threads[0].join)
        for _ in range(10):
            await asyncio.sleep(0)  # whatever the thread has told the event loop
        done = caller.done()
        caller.cancel()
        return done

    assert not asyncio.run(ask())


class Numbers(batchers.Batcher):  # type: ignore[misc]  # untyped
    def batch(self, requests: list[tuple[int]]) -> Any:
        return ([number for (number,) in requests],), None

    def unbatch(self, response: Any, context: Any) -> Any:
        return response
