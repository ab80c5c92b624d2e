"""Data loaders (aiodataloader, strawberry), smartbatch and ubatch through BatcherSuite.

A data loader sends what a turn of the event loop asks for, in as many calls at a time as it takes.
smartbatch asks `time.time`, repeats what failed item by item, and turns callers away for ten
seconds when much has failed. ubatch waits in threads, on the real clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from infopt_suites.batching import (
    BatcherSuite,
    BatchPolicy,
    EmbeddingBatcherSuite,
    MakeBatcher,
    MakeEmbeddingBatcher,
    batcher_trial,
)
from infopt_suites.batching.clock import BlockingError
from infopt_suites.batching.protocol import BatchFunction

FINDINGS = "tests/findings/test_findings_"
END = "test_an_end_of_any_kind_leaves_nobody_waiting"
ITEM_ERROR = "test_an_exception_among_the_results_fails_its_item_alone"


class OfLoader:
    """A data loader without its cache. It has no start and no stop."""

    def __init__(self, batch_function: BatchFunction, policy: BatchPolicy) -> None:
        async def load(keys: list[Any]) -> Any:
            return await batch_function(keys)

        self.loader = self.made(load, policy.max_batch_size)

    def made(self, load: BatchFunction, max_batch_size: int) -> Any:
        raise NotImplementedError

    async def start(self) -> None:
        """It starts with the first key."""

    def submit(self, item: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.loader.load(item)
        return future

    async def embed(self, texts: list[str]) -> Any:
        return await self.loader.load_many(texts)

    async def stop(self) -> None:
        """It has no end."""


class OfAiodataloader(OfLoader):
    def made(self, load: BatchFunction, max_batch_size: int) -> Any:
        library = pytest.importorskip("aiodataloader")
        return library.DataLoader(load, max_batch_size=max_batch_size, cache=False)


class OfStrawberry(OfLoader):
    def made(self, load: BatchFunction, max_batch_size: int) -> Any:
        library = pytest.importorskip("strawberry.dataloader")
        return library.DataLoader(load_fn=load, max_batch_size=max_batch_size, cache=False)


class LoaderSuite(BatcherSuite):
    """What data loaders declare."""

    capabilities = frozenset({"full", "no-window", "order", "item-errors"})
    unbounded_calls = True
    wrong_results = frozenset({"none", "number"})  # any iterable of the right length will do


class TestAiodataloader(LoaderSuite):
    expected_failures = {  # noqa: RUF012  # read only
        END: FINDINGS + "aiodataloader_cancellation.py",
        ITEM_ERROR: FINDINGS + "aiodataloader_stop_iteration.py",
    }

    @pytest.fixture
    def make_batcher(self) -> MakeBatcher:
        pytest.importorskip("aiodataloader")
        return OfAiodataloader


class TestStrawberry(LoaderSuite):
    expected_failures = {  # noqa: RUF012  # read only
        END: FINDINGS + "strawberry_cancellation.py",
        ITEM_ERROR: FINDINGS + "strawberry_stop_iteration.py",
    }

    @pytest.fixture
    def make_batcher(self) -> MakeBatcher:
        pytest.importorskip("strawberry.dataloader")
        return OfStrawberry


class TestAiodataloaderOfTexts(EmbeddingBatcherSuite):
    capabilities = frozenset({"shared", "full", "no-window"})
    unbounded_calls = True
    wrong_results = LoaderSuite.wrong_results

    @pytest.fixture
    def make_embedding_batcher(self) -> MakeEmbeddingBatcher:
        pytest.importorskip("aiodataloader")
        return OfAiodataloader


class OfSmartbatch:
    """What its decorator makes of a batch function."""

    def __init__(self, batch_function: BatchFunction, policy: BatchPolicy) -> None:
        async def infer(items: list[Any]) -> Any:
            return await batch_function(items)

        library = pytest.importorskip("smartbatch")
        self.function = library.batch(
            max_batch_size=policy.max_batch_size,
            max_wait_time=policy.max_wait,
            target_latency=1e9,  # by which it judges whether to turn callers away
        )(infer)

    async def start(self) -> None:
        await self.function.batcher.start()

    async def submit(self, item: Any) -> Any:
        return await self.function(item)

    async def stop(self) -> None:
        await self.function.batcher.stop()


@pytest.mark.slow
class TestSmartbatch(BatcherSuite):
    capabilities = frozenset({"full"})
    retries_one_by_one = True
    recovers_within = 10.1
    wrong_results = frozenset({"none", "number"})  # whatever has the right length will do
    expected_failures = {END: FINDINGS + "smartbatch_end.py"} | dict.fromkeys(
        (
            "test_a_caller_cancelled_while_its_item_is_tried_again_leaves_the_others_alone",
            "test_any_interleaving_gives_each_caller_one_outcome",
        ),
        FINDINGS + "smartbatch_cancellation.py",
    )

    @pytest.fixture(autouse=True)
    def quiet(self) -> Iterator[None]:
        """It logs each step."""
        logging.disable(logging.ERROR)
        yield
        logging.disable(logging.NOTSET)

    @pytest.fixture
    def make_batcher(self) -> MakeBatcher:
        pytest.importorskip("smartbatch")
        return OfSmartbatch


class OfUbatch:
    """Its callers look every millisecond whether their result is there."""

    def __init__(self, batch_function: BatchFunction, policy: BatchPolicy) -> None:
        library = pytest.importorskip("ubatch")
        self.batch_function = batch_function
        self.batcher = library.UBatch(policy.max_batch_size, policy.max_wait)
        self.batcher.set_handler(self.handle)

    def handle(self, items: list[Any]) -> Any:
        call: Any = self.batch_function(items)
        return asyncio.run_coroutine_threadsafe(call, self.loop).result()

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.batcher.start()

    async def submit(self, item: Any) -> Any:
        return await asyncio.to_thread(self.batcher.ubatch, item)

    async def stop(self) -> None:
        await asyncio.to_thread(self.batcher.stop)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:setDaemon")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
class TestUbatch(BatcherSuite):
    capabilities = frozenset({"order"})
    virtual = False
    examples = 3
    wrong_results = frozenset({"none", "number"})  # whatever has the right length will do
    expected_failures = {END: FINDINGS + "ubatch_end.py"}  # noqa: RUF012  # read only

    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(batcher_trial, "REAL_PATIENCE", 5.0)

    @pytest.fixture
    def make_batcher(self) -> MakeBatcher:
        pytest.importorskip("ubatch")
        return OfUbatch


@pytest.mark.filterwarnings("ignore:setDaemon")
def test_what_waits_in_threads_is_named_on_virtual_time() -> None:
    pytest.importorskip("ubatch")
    made: list[OfUbatch] = []

    def make(batch_function: BatchFunction, policy: BatchPolicy) -> OfUbatch:
        made.append(OfUbatch(batch_function, policy))
        return made[-1]

    try:
        with pytest.raises(BlockingError, match=r"get_wait_output .*keeps its thread; virtual"):
            BatcherSuite().test_equal_items_have_an_outcome_each(make_batcher=make)
    finally:
        for each in made:
            each.batcher.stop()
