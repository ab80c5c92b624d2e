"""Serving many requests with an engine that can stream one: they queue.

Imports no torch. PYTEST_DONT_REWRITE: it times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from ..errors import InfoptError
from .base import TokenEvent

__all__ = ["OneAtATime"]


class OneAtATime:
    """`engines.base.LoadEngine` for an engine that streams. Requests are served in the order in
    which they come, in another thread, so that the event loop can send those that are due."""

    name: str
    _turn: asyncio.Lock | None = None

    def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]:
        """See `engines.base.StreamingEngine`."""
        raise NotImplementedError

    async def open_streams(self, count: int) -> None:
        self._turn = asyncio.Lock()

    async def load_stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> list[TokenEvent]:
        if self._turn is None:
            raise InfoptError(f"model {self.name!r}: streams were not opened; call open_streams")
        async with self._turn:
            return await asyncio.to_thread(lambda: list(self.stream(prompt_ids, max_new_tokens)))

    def close_streams(self) -> None:
        self._turn = None
