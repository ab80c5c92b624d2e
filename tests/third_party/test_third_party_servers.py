"""litserve's and batch-inference's batching through BatcherSuite, on the real clock.

Both wait in threads and call a synchronous function. litserve's loop usually runs in a process of
its own; here a thread runs the same loop on queues of this process, and the server, which is HTTP
alone, is left out. mosec is not tried: its batcher is part of a Rust server (`mosec_bin`), which
reaches a Python worker by a socket, and callers by HTTP alone.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from infopt_suites.batching import BatcherSuite, BatchPolicy, MakeBatcher, batcher_trial
from infopt_suites.batching.protocol import BatchFunction

END = "test_an_end_of_any_kind_leaves_nobody_waiting"
BATCH_INFERENCE = "tests/findings/test_findings_batch_inference_"


class OfLitserve:
    """`BatchedLoop` on the queue of a worker, and the answers it sends by the request's id."""

    def __init__(self, batch_function: BatchFunction, policy: BatchPolicy) -> None:
        loops = pytest.importorskip("litserve.loops.simple_loops")
        library = pytest.importorskip("litserve")

        class Service(library.LitAPI):  # type: ignore[misc]  # untyped
            def setup(self, device: str) -> None:
                """Nothing to load."""

            def decode_request(self, request: Any) -> Any:
                return request

            def batch(self, inputs: list[Any]) -> list[Any]:
                return inputs

            def predict(self, inputs: list[Any]) -> Any:
                return outer.call(inputs)

            def unbatch(self, output: Any) -> Any:
                return output

            def encode_response(self, output: Any) -> Any:
                return output

        outer = self
        self.batch_function = batch_function
        self.service = Service(max_batch_size=policy.max_batch_size, batch_timeout=policy.max_wait)
        self.service.request_timeout = -1
        self.loop_of_library = loops.BatchedLoop()
        self.requests: queue.Queue[Any] = queue.Queue()
        self.numbers = itertools.count()
        self.futures: dict[int, asyncio.Future[Any]] = {}
        self.callbacks = pytest.importorskip("litserve.callbacks").CallbackRunner()
        self.end = pytest.importorskip("litserve.loops.base")._SENTINEL_VALUE
        self.error = pytest.importorskip("litserve.utils").LitAPIStatus.ERROR

    def call(self, items: list[Any]) -> Any:
        call: Any = self.batch_function(items)
        return asyncio.run_coroutine_threadsafe(call, self.loop).result()

    def send(self, message: Any, consumer_id: int) -> None:
        """What the loop asks of a transport."""
        self.loop.call_soon_threadsafe(self.receive, message)

    def receive(self, message: Any) -> None:
        number, (answer, status, *_) = message
        future = self.futures.pop(number)
        if future.done():
            return
        if status == self.error:
            future.set_exception(pickle.loads(answer) if isinstance(answer, bytes) else answer)
        else:
            future.set_result(answer)

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        arguments = (self.service, self.requests, self, self.callbacks)
        self.thread = threading.Thread(
            target=self.loop_of_library.run_batched_loop, args=arguments, daemon=True
        )
        self.thread.start()

    async def submit(self, item: Any) -> Any:
        number = next(self.numbers)
        future = self.futures[number] = self.loop.create_future()
        self.requests.put((0, number, 0.0, item))
        return await future

    async def stop(self) -> None:
        self.requests.put(self.end)
        await asyncio.to_thread(self.thread.join)


class OfBatchInference:
    """`aio.ModelHost`, whose batches are lists."""

    def __init__(self, batch_function: BatchFunction, policy: BatchPolicy) -> None:
        library = pytest.importorskip("batch_inference.aio", exc_type=ImportError)
        batchers = pytest.importorskip("batch_inference.batcher")

        class Lists(batchers.Batcher):  # type: ignore[misc]  # untyped
            def batch(self, requests: list[tuple[Any]]) -> Any:
                return ([item for (item,) in requests],), None

            def unbatch(self, response: Any, context: Any) -> Any:
                return response

        self.batch_function = batch_function
        self.host = library.ModelHost(
            model_obj=self,
            batcher=Lists(),
            max_batch_size=policy.max_batch_size,
            wait_ms=1000 * policy.max_wait,
            wait_n=policy.max_batch_size,
            num_workers=policy.max_concurrency,
        )

    def predict_batch(self, items: list[Any]) -> Any:
        call: Any = self.batch_function(items)
        return asyncio.run_coroutine_threadsafe(call, self.loop).result()

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        await self.host.start()

    async def submit(self, item: Any) -> Any:
        return await self.host.predict(item)

    async def stop(self) -> None:
        await self.host.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
class Threaded(BatcherSuite):
    """Both log errors of the batch function with their traceback."""

    __test__ = False
    virtual = False
    examples = 3

    @pytest.fixture(autouse=True)
    def quiet_and_impatient(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(batcher_trial, "REAL_PATIENCE", 5.0)
        logging.disable(logging.ERROR)
        yield
        logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The LitServer has both batch and unbatch")
class TestLitserve(Threaded):
    __test__ = True
    capabilities = frozenset({"order"})
    wrong_results = frozenset({"none", "number"})  # whatever has the right length will do
    expected_failures = {  # noqa: RUF012  # read only
        END: "what is no Exception ends the worker's process, and the server with it",
        "test_a_failing_call_fails_its_own_callers_alone": (
            "tests/findings/test_findings_litserve_pickle.py"
        ),
    }

    @pytest.fixture
    def make_batcher(self) -> MakeBatcher:
        pytest.importorskip("litserve")
        return OfLitserve


@pytest.mark.slow
class TestBatchInference(Threaded):
    __test__ = True
    capabilities = frozenset({"concurrency"})
    wrong_results = frozenset({"none", "number", "set"})  # what has no length, or no places
    expected_failures = {  # noqa: RUF012  # read only
        END: BATCH_INFERENCE + "end.py",
        "test_a_wrong_number_of_results_fails_the_call": BATCH_INFERENCE + "count.py",
    }

    @pytest.fixture
    def make_batcher(self) -> MakeBatcher:
        pytest.importorskip("batch_inference.aio", exc_type=ImportError)
        return OfBatchInference
