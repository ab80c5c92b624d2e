"""An adapter that is not what its protocol declares is told so, in one sentence."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from infopt_reference import batching
from infopt_suites.batching import (
    BatcherSuite,
    BatchPolicy,
    ContinuousBatchingSuite,
    EmbeddingBatcherSuite,
    watchdog,
)
from infopt_suites.batching.clock import BlockingError
from infopt_suites.batching.contract import ProtocolError, ask
from infopt_suites.batching.protocol import Batcher


class Plain:
    """Serves each item by itself, at once."""

    def __init__(self, batch_function: Any, policy: Any) -> None:
        self.batch_function = batch_function

    async def start(self) -> None:
        pass

    async def submit(self, item: Any) -> Any:
        return (await self.batch_function([item]))[0]

    async def stop(self) -> None:
        pass


class SynchronousSubmit(Plain):
    def submit(self, item: Any) -> Any:  # type: ignore[override]  # the mistake
        return item


class SynchronousStart(Plain):
    def start(self) -> None:  # type: ignore[override]  # the mistake
        pass


class NoSubmit:
    __init__, start, stop = Plain.__init__, Plain.start, Plain.stop


class WaitsForAThread(Plain):
    """Its worker never comes, as one that waits for the event loop would not."""

    async def submit(self, item: Any) -> Any:
        threading.Event().wait()


ONE = "test_equal_items_have_an_outcome_each"
DRAIN = "test_a_stop_that_drains_serves_all"


@pytest.mark.parametrize(
    ("make", "claims", "name", "words"),
    [
        (SynchronousSubmit, (), ONE, r"submit returned .*cannot be awaited; Batcher .*async def"),
        (SynchronousStart, (), ONE, r"start returned an object of NoneType.*async def start"),
        (NoSubmit, (), ONE, r"NoSubmit has no submit; Batcher .*async def submit"),
        (
            Plain,
            ("drain",),
            DRAIN,
            r'stop\(\) -> None was called .*"drain".*drain: bool',
        ),
        (
            Plain,
            ("deadlines",),
            "test_deadlines_are_kept",
            r'deadline=[0-9.]+; .*Capability "deadlines".*deadline: float',
        ),
    ],
)
def test_an_adapter_of_a_batcher_is_told_what_is_asked_of_it(
    make: Any, claims: tuple[str, ...], name: str, words: str
) -> None:
    suite = type("Trial", (BatcherSuite,), {"capabilities": claims})()
    with pytest.raises(ProtocolError, match=words):
        getattr(suite, name)(make_batcher=make)


def test_an_adapter_of_embeddings_is_told_what_is_asked_of_it() -> None:
    with pytest.raises(ProtocolError, match=r"Plain has no embed; EmbeddingBatcher .*embed"):
        EmbeddingBatcherSuite().test_no_texts_need_no_call(make_embedding_batcher=Plain)


class GivesNothing:
    """A continuous batcher whose generate has no return."""

    def __init__(self, model: Any, limits: Any) -> None:
        pass

    async def start(self) -> None:
        pass

    async def generate(self, prompt_ids: Any, parameters: Any) -> None:
        pass

    async def stop(self) -> None:
        pass


@pytest.mark.parametrize(
    ("claims", "name", "words"),
    [
        ((), "test_neighbours_change_no_token", r"None was given, and no tokens; .*generate"),
        ((), "test_a_bad_request_fails_alone", r"None was given, and no tokens; .*generate"),
        (
            ("samples",),
            "test_samples_of_one_prompt_are_as_many_requests",
            r"no generate_samples; .*samples",
        ),
        (("abort",), "test_an_abort_ends_its_request_alone", r'"abort".*request_id: str'),
        (("blocks",), "test_nothing_is_done_while_nobody_asks", "num_free_blocks"),
    ],
)
def test_an_adapter_of_a_continuous_batcher_is_told_what_is_asked_of_it(
    claims: tuple[str, ...], name: str, words: str
) -> None:
    members = {"capabilities": claims, "examples": 1}
    suite = type("Trial", (ContinuousBatchingSuite,), members)()
    if claims == ("blocks",):
        with pytest.raises(ProtocolError, match=words):
            suite._serve(GivesNothing, lambda serving: asyncio.sleep(0))  # type: ignore[arg-type]  # gives no tokens
        return
    with pytest.raises(ProtocolError, match=words):
        getattr(suite, name)(make_continuous_batcher=GivesNothing)


def test_a_type_error_of_the_adapter_itself_is_its_own() -> None:
    class Wrong(Plain):
        async def start(self) -> None:
            raise TypeError("of its own")

    with pytest.raises(TypeError, match="of its own"):
        asyncio.run(ask(Batcher, Wrong(None, None), "start"))


def test_a_batcher_that_waits_in_threads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By each property on virtual time, and after the second one at once."""
    monkeypatch.setattr(watchdog, "HANG", 0.2)
    monkeypatch.setattr(watchdog, "LOOK", 0.02)
    suite = type("Trial", (BatcherSuite,), {})
    words = r"WaitsForAThread.submit .*keeps its thread; virtual time"
    for name in (ONE, "test_any_interleaving_gives_each_caller_one_outcome"):
        with pytest.raises(BlockingError, match=words):
            getattr(suite(), name)(make_batcher=WaitsForAThread)


def make_reference(batch_function: Any, policy: BatchPolicy) -> batching.DynamicBatcher[Any, Any]:
    bounds = batching.BatchPolicy(policy.max_batch_size, policy.max_wait)
    return batching.DynamicBatcher(batch_function, bounds)


@pytest.mark.parametrize("kind", ["CancelledError", "StopAsyncIteration"])
def test_a_property_of_several_ends_says_which_one_broke(kind: str) -> None:
    def make(batch_function: Callable[..., Any], policy: BatchPolicy) -> Any:
        async def fragile(items: list[Any]) -> Any:
            try:
                return await batch_function(items)
            except BaseException as error:
                if type(error).__name__ == kind:
                    await asyncio.Event().wait()
                raise

        return make_reference(fragile, policy)

    with pytest.raises(AssertionError) as raised:
        BatcherSuite().test_an_end_of_any_kind_leaves_nobody_waiting(make_batcher=make)
    assert f"with make_error = {kind}" in raised.value.__notes__
