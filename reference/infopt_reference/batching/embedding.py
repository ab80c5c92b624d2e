"""A batcher for embeddings: every caller has a list of texts, the backend gets them in batches.

    async with EmbeddingBatcher(backend, BatchPolicy(max_batch_size=32, max_wait=0.005)) as batcher:
        vectors = await batcher.embed(["a cat", "a dog", "a cat"])       one for each text

Contract. That of the `DynamicBatcher`, of which a text is an item; and
- `EmbeddingBatcher.embed` returns one vector for each text, in their order, whichever batches they
  went through. A list longer than a batch is split, what is left over joins others' texts.
- A text is in the line or with the backend once: callers who ask for it in the meantime get the
  same vector, which is the same object. Nobody may write to it.
- A text that fails fails the calls that ask for it, once it has failed, and no others. Texts that
  such a call, or one that was cancelled, leaves in the line are not computed, unless somebody else
  asks for them.
- With ``reject_when_full`` a call is accepted as a whole or not at all.

Leaves out: a cache of vectors that are ready, batches by length.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from .batcher import BatchFunction, DynamicBatcher
from .errors import QueueFullError
from .pending import Entry
from .policy import BatchPolicy

Vector = TypeVar("Vector")


@dataclass(slots=True)
class _Shared:
    """A text that is not ready, and how many calls wait for it."""

    entry: Entry
    num_calls: int = 0


class EmbeddingBatcher(DynamicBatcher[str, Vector]):
    """One backend call for what many callers ask.

    ``backend``: an async function of a list of different texts to one vector for each, of any type.
    """

    def __init__(self, backend: BatchFunction[str, Vector], policy: BatchPolicy) -> None:
        super().__init__(backend, policy)
        self._shared: dict[str, _Shared] = {}

    async def embed(self, texts: Sequence[str], deadline: float | None = None) -> list[Vector]:
        """One vector for each text, in their order; equal texts get the same object.

        ``deadline``: seconds from now that the caller waits at most.

        Raises:
            TypeError: ``texts`` is a single string.
            QueueFullError: there is no room for its new texts, with ``reject_when_full``.
            BatcherStoppedError, TimeoutError, BatchResultError, Exception: as
                `DynamicBatcher.submit`, for the first text that failed.
        """
        if isinstance(texts, str):
            raise TypeError(f"texts is the string {texts[:40]!r}; give a list of strings")
        texts = list(texts)  # whose caller may change it in the meantime
        if deadline is not None:
            return await self._within(deadline, self.embed(texts))
        shared = self._join(texts)
        try:
            if shared:
                await asyncio.wait(
                    [text.entry.future for text in shared.values()],
                    return_when=asyncio.FIRST_EXCEPTION,
                )
            for text in shared.values():
                if text.entry.future.done() and (error := text.entry.future.exception()):
                    raise error
            return [shared[text].entry.future.result() for text in texts]
        finally:
            self._leave(shared)

    def _join(self, texts: Sequence[str]) -> dict[str, _Shared]:
        """Puts the texts that nobody waits for in the line; one entry for each different text."""
        self._require_running()
        pending = {}
        for text in texts:
            known = self._shared.get(text)
            # One that has its outcome stays for this turn of the loop, and is of no use any more.
            pending[text] = None if known is None or known.entry.future.done() else known
        self._require_room(sum(known is None for known in pending.values()))
        joined = {}
        for text, known in pending.items():
            joined[text] = shared = known or self._add(text)
            shared.num_calls += 1
        return joined

    def _add(self, text: str) -> _Shared:
        self._shared[text] = shared = _Shared(self._enqueue(text))
        shared.entry.future.add_done_callback(functools.partial(self._forget, text, shared))
        return shared

    def _forget(self, text: str, shared: _Shared, future: asyncio.Future[Vector]) -> None:
        if self._shared.get(text) is shared:
            del self._shared[text]
        if not future.cancelled():
            future.exception()  # asyncio reports those that nobody has looked at

    def _leave(self, joined: dict[str, _Shared]) -> None:
        for shared in joined.values():
            shared.num_calls -= 1
            if not shared.num_calls and shared.entry.line is not None:
                shared.entry.future.cancel()
                self._withdraw(shared.entry)

    def _require_room(self, num_new: int) -> None:
        room = self._max_queue_size - self._line.num_waiting
        if self.policy.reject_when_full and num_new > room:
            self.statistics.num_rejected += num_new
            raise QueueFullError(
                f"{num_new} new texts, and room for {room} of max_queue_size "
                f"{self._max_queue_size}; ask for fewer at a time, or come back later"
            )
