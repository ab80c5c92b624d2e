"""What the suites for batchers talk to: minimal protocols for a thin adapter.

Legend: seconds everywhere, of the event loop's clock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

BatchFunction = Callable[[list[Any]], Awaitable[Sequence[Any]]]  # one result for each item
Backend = Callable[[list[str]], Awaitable[Sequence[Any]]]  # one vector for each text


@dataclass(frozen=True)
class BatchPolicy:
    """The batcher that a suite asks for.

    ``max_batch_size``: the most items of one call. ``max_wait``: how long an item may wait for
    others while a call could begin. ``max_queue_size``: the most items that wait, None for any
    number; whoever comes then is turned away with an exception if ``reject_when_full``, or waits
    outside. ``max_concurrency``: the most calls at a time.
    """

    max_batch_size: int
    max_wait: float
    max_queue_size: int | None = None
    max_concurrency: int = 1
    reject_when_full: bool = False


class Batcher(Protocol):
    """Many callers, each with an item; one call of the batch function for many items."""

    async def start(self) -> None:
        """Begins to serve, in the event loop that runs."""

    async def submit(self, item: Any) -> Any:
        """The item's result; or raises what the batch function raised."""

    async def stop(self) -> None:
        """Ends; who waits is served, or gets an exception."""


class DrainingBatcher(Batcher, Protocol):
    """Capabilities "drain" and "immediate"."""

    async def stop(self, drain: bool = True) -> None:
        """With ``drain``, all that was submitted is served first; without, nothing more is."""


class PunctualBatcher(Batcher, Protocol):
    """Capability "deadlines"."""

    async def submit(self, item: Any, deadline: float | None = None) -> Any:
        """TimeoutError if there is no result after ``deadline`` seconds."""


class MakeBatcher(Protocol):
    """The factory that `BatcherSuite` asks for."""

    def __call__(self, batch_function: BatchFunction, policy: BatchPolicy, /) -> Batcher:
        """A batcher that has not started; it is called in the event loop."""


class EmbeddingBatcher(Protocol):
    """Every caller has a list of texts; the backend gets them in batches."""

    async def start(self) -> None:
        """Begins to serve, in the event loop that runs."""

    async def embed(self, texts: list[str]) -> Sequence[Any]:
        """One vector for each text, in their order."""

    async def stop(self) -> None:
        """Ends."""


class MakeEmbeddingBatcher(Protocol):
    """The factory that `EmbeddingBatcherSuite` asks for."""

    def __call__(self, backend: Backend, policy: BatchPolicy, /) -> EmbeddingBatcher:
        """An embedding batcher that has not started; it is called in the event loop."""
