"""A subclass of async-batcher's `AsyncBatcher`, as its users write it, for the findings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from async_batcher.batcher import AsyncBatcher


class Batching(AsyncBatcher[Any, Any]):
    """Two items a batch, ten seconds for the second."""

    def __init__(self, function: Callable[[list[Any]], Awaitable[Any]], size: int = 2) -> None:
        super().__init__(max_batch_size=size, max_queue_time=10.0)
        self.function = function

    async def process_batch(self, batch: list[Any]) -> Any:
        return await self.function(batch)
