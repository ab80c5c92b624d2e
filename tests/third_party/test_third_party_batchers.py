"""batched and async-batcher through BatcherSuite, on virtual time, and sentence-transformers'
encode through EmbedderSuite."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from async_batcher.batcher import AsyncBatcher
from batched.aio import AsyncBatchProcessor
from infopt_reference.caching.embedder import find_model
from infopt_suites.batching import (
    BatcherSuite,
    BatchPolicy,
    EmbedderSuite,
    EmbeddingBatcherSuite,
    MakeBatcher,
    MakeEmbedder,
    MakeEmbeddingBatcher,
)
from infopt_suites.batching.batcher_calls import WRONG
from infopt_suites.batching.embedder import Embed
from infopt_suites.batching.protocol import BatchFunction

BATCHED_RESULTS = "tests/findings/test_findings_batched_results.py"
ASYNC_BATCHER = "tests/findings/test_findings_async_batcher_"


class OfBatched:
    """`AsyncBatchProcessor`, which takes lists for many items and has no stop."""

    def __init__(self, batch_function: BatchFunction, policy: BatchPolicy) -> None:
        self.batch_function = batch_function
        self.processor: Any = AsyncBatchProcessor(
            self.unpacked, batch_size=policy.max_batch_size, timeout_ms=1000 * policy.max_wait
        )

    async def unpacked(self, items: list[tuple[Any]]) -> Any:
        return await self.batch_function([item for (item,) in items])

    async def start(self) -> None:
        """It starts with the first item."""

    async def submit(self, item: Any) -> Any:
        return await self.processor((item,))

    async def embed(self, texts: list[str]) -> Any:
        return await self.processor([(text,) for text in texts])

    async def stop(self) -> None:
        """It ends when it is collected."""


class TestBatched(BatcherSuite):
    capabilities = frozenset({"order"})
    expected_failures = {  # noqa: RUF012  # read only
        "test_an_end_of_any_kind_leaves_nobody_waiting": (
            "tests/findings/test_findings_batched_cancellation.py"
        ),
        "test_what_is_no_list_of_results_fails_the_call": BATCHED_RESULTS,
    }

    @pytest.fixture
    def make_batcher(self) -> MakeBatcher:
        return OfBatched


class TestBatchedEmbeddings(EmbeddingBatcherSuite):
    capabilities = frozenset({"shared"})
    expected_failures = {  # noqa: RUF012  # read only
        "test_what_is_no_list_of_vectors_fails_the_call": BATCHED_RESULTS
    }

    @pytest.fixture
    def make_embedding_batcher(self) -> MakeEmbeddingBatcher:
        return OfBatched


class Batching(AsyncBatcher[Any, Any]):
    """What its users write: a subclass with ``process_batch``."""

    def __init__(self, batch_function: BatchFunction, policy: BatchPolicy) -> None:
        super().__init__(
            max_batch_size=policy.max_batch_size,
            max_queue_time=policy.max_wait,
            max_queue_size=policy.max_queue_size or -1,
            concurrency=policy.max_concurrency,
        )
        self.batch_function = batch_function

    async def process_batch(self, batch: list[Any]) -> Any:
        return await self.batch_function(batch)


class OfAsyncBatcher:
    """`AsyncBatcher` starts with its first item, and not again after a stop."""

    def __init__(self, batch_function: BatchFunction, policy: BatchPolicy) -> None:
        self.batcher = Batching(batch_function, policy)

    async def start(self) -> None:
        """It starts with the first item."""

    async def submit(self, item: Any) -> Any:
        return await self.batcher.process(item)

    async def stop(self, drain: bool = True) -> None:
        await self.batcher.stop(force=not drain)


class TestAsyncBatcher(BatcherSuite):
    capabilities = frozenset(
        {
            "full",
            "no-window",
            "order",
            "concurrency",
            "item-errors",
            "stop",
            "drain",
            "rejects",
        }
    )
    batch_sizes = (2, 3, 5)  # it refuses 1
    wrong_results = frozenset(WRONG) - {"none"}  # which stands for None for each item
    expected_failures = (
        dict.fromkeys(
            (
                "test_every_caller_gets_its_own_result",
                "test_steady_arrivals_do_not_prolong_the_window",
                "test_a_late_second_item_does_not_prolong_the_window",
                "test_any_interleaving_gives_each_caller_one_outcome",
            ),
            ASYNC_BATCHER + "window.py",
        )
        | dict.fromkeys(
            (
                "test_a_caller_cancelled_while_it_waits_leaves_the_others_alone",
                "test_a_caller_cancelled_in_an_open_batch_leaves_the_others_alone",
                "test_a_caller_cancelled_while_it_is_served_leaves_the_others_alone",
                "test_a_caller_cancelled_as_its_result_comes_leaves_the_others_alone",
                "test_callers_that_give_up_in_time_are_told_so",
                "test_many_rounds_leave_nothing_behind",
                "test_a_drain_ends_after_a_caller_left_as_its_result_came",
            ),
            ASYNC_BATCHER + "cancellation.py",
        )
        | dict.fromkeys(
            (
                "test_an_end_of_any_kind_leaves_nobody_waiting",
                "test_an_exception_among_the_results_fails_its_item_alone",
                "test_what_is_no_list_of_results_fails_the_call",
            ),
            ASYNC_BATCHER + "results.py",
        )
        | {"test_a_stop_that_drains_serves_all": ASYNC_BATCHER + "stop.py"}
    )

    @pytest.fixture(autouse=True)
    def quiet(self) -> Iterator[None]:
        """It logs errors of the batch function with their traceback."""
        logging.disable(logging.ERROR)
        yield
        logging.disable(logging.NOTSET)

    @pytest.fixture
    def make_batcher(self) -> MakeBatcher:
        return OfAsyncBatcher


@cache
def sentence_transformer(dtype: torch.dtype) -> Any:
    library = pytest.importorskip("sentence_transformers")
    return library.SentenceTransformer(str(find_model()), device="cpu").to(dtype)


def encoder(dtype: torch.dtype, batch_size: int) -> Embed:
    model = sentence_transformer(dtype)
    return lambda texts: model.encode(texts, batch_size=batch_size, show_progress_bar=False)


@pytest.mark.slow
class TestSentenceTransformers(EmbedderSuite):
    capabilities = frozenset({"empty", "normalized"})

    @pytest.fixture
    def make_embedder(self) -> MakeEmbedder:
        return encoder
