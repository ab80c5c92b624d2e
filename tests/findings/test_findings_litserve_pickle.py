"""litserve 0.2.19: an error of `predict` that cannot be pickled ends the worker.

`put_error_response` pickles the error inside the handler that caught it, so that errors which hold
a lock, a connection or a class of a function leave the loop: nobody of the batch is told, and the
worker is gone for all who wait. Public: Lightning-AI/LitServe#759 (open). Breaks
BatcherSuite.test_a_failing_call_fails_its_own_callers_alone.
"""

from __future__ import annotations

import logging
import queue
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from recorded import recorded

litserve = recorded("litserve", "litserve>=0.2.19,<0.3")
loops = recorded("litserve.loops.simple_loops", "litserve>=0.2.19,<0.3")


class BrokenError(Exception):
    def __init__(self) -> None:
        self.connection = threading.Lock()


class Service(litserve.LitAPI):  # type: ignore[misc]  # untyped
    def setup(self, device: str) -> None:
        """Nothing to load."""

    def predict(self, inputs: Any) -> Any:
        raise BrokenError

    def decode_request(self, request: Any) -> Any:
        return request

    def encode_response(self, output: Any) -> Any:
        return output


def test_the_loop_ends_and_the_caller_is_not_told() -> None:
    service = Service(max_batch_size=2, batch_timeout=0.01)
    service.request_timeout = -1
    requests: queue.Queue[Any] = queue.Queue()
    requests.put((0, "the caller", 0.0, 1))
    sent: list[Any] = []
    transport = SimpleNamespace(send=lambda message, consumer_id: sent.append(message))
    callbacks = litserve.callbacks.CallbackRunner()
    logging.disable(logging.ERROR)
    try:
        with pytest.raises(TypeError, match="pickle"):
            loops.BatchedLoop().run_batched_loop(service, requests, transport, callbacks)
    finally:
        logging.disable(logging.NOTSET)
    assert sent == []
