"""Layered service: an equal request's answer, else a similar one's, else the model's.

    complete(request) = exact(request)  or  semantic(request)  or  model(request), which is stored

Contract
- The first layer that has an answer gives it. The model's answers go to both caches at once
  (write-through), each with the cache's own time to live; an answer that came from a cache is
  written nowhere: it neither lives longer nor becomes the exact answer to another question.
- With ``bypass`` the model answers, and no cache is read or written.
- Equal requests at the same time ask the model once, where their answer may be kept.
- A stream of a stored answer has the same text. A stream that breaks off, whoever broke it, is not
  stored; one that comes to its end is, even if its last chunk is not waited for.
- The caches fail no request (answer_cache.py); what the model raises, the caller gets.

Leaves out: sharing one stream among equal requests that come while it runs; each has its own.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from .answer import Answer
from .answer_cache import AnswerCache, saved_tokens
from .counters import Counters
from .keys import prefix
from .request import ChatRequest
from .response_cache import ResponseCache
from .semantic_cache import SemanticCache
from .service import LLMService, StreamChunk, replay
from .single_flight import SingleFlight
from .store import MemoryStore

KIND = "service"


class LayeredLLMService:
    """A service behind caches; itself a `LLMService`.

    Args:
        service: the model.
        exact: the first layer, or None.
        semantic: the second layer, or None.
        namespace: layered services of one namespace share their counters, in the store of the
            first cache there is.
    """

    def __init__(
        self,
        service: LLMService,
        exact: ResponseCache | None = None,
        semantic: SemanticCache | None = None,
        namespace: str = "infopt",
    ) -> None:
        self.service = service
        layers = {"exact": exact, "semantic": semantic}
        self.layers: dict[str, AnswerCache] = {
            name: cache for name, cache in layers.items() if cache is not None
        }
        store = next((cache.store for cache in self.layers.values()), MemoryStore())
        self._counters = Counters(store, f"{prefix(namespace, KIND)}counters")
        self._flights: SingleFlight[Answer] = SingleFlight()

    async def complete(self, request: ChatRequest, *, bypass: bool = False) -> Answer:
        """The first layer's answer that has one; with ``bypass`` the model's.

        Raises whatever the model raises.
        """
        if bypass:
            self._counters.add(bypassed=1)
            return await self.service.complete(request)
        landed = self._flights.landed
        answer = await self._look_up(request)
        if answer is not None:
            return answer

        async def work() -> Answer:
            # Looked up again where an equal request's flight may have ended since.
            known = await self._look_up(request) if self._flights.landed > landed else None
            return known or await self._ask(request)

        key = self._flight_key(request)
        if key is None:
            return await self._ask(request)
        answer, began = await self._flights.run(key, work)
        if not began:
            self._counters.add(joined=1, **saved_tokens(answer))
        return copy.deepcopy(answer)  # its caller may change it before others have woken up

    async def stream(
        self, request: ChatRequest, *, bypass: bool = False
    ) -> AsyncGenerator[StreamChunk, None]:
        """The same, piece by piece; the last chunk has the whole answer."""
        answer = None if bypass else await self._look_up(request)
        if answer is not None:
            for chunk in replay(answer):
                yield chunk
            return
        self._counters.add(**{"bypassed" if bypass else "model": 1})
        chunks: Any = self.service.stream(request)
        async with aclosing(chunks):
            async for chunk in chunks:
                if chunk.answer is not None and not bypass:
                    await self._store(request, chunk.answer)
                yield chunk

    async def counters(self) -> dict[str, int]:
        """Counts of all services of this namespace; a name that is missing was never counted.

        exact, semantic, model: requests that this layer answered; joined: those that got an equal
        request's answer; bypassed; saved_prompt_tokens and saved_completion_tokens by all but the
        model. Requests = exact + semantic + model + joined + bypassed + failures of the model.
        """
        return await self._counters.read()

    async def clear(self) -> None:
        """Clears the caches."""
        for cache in self.layers.values():
            await cache.clear()

    async def close(self) -> None:
        """Sends the last counts."""
        await self._counters.flush()
        for cache in self.layers.values():
            await cache.close()

    async def _look_up(self, request: ChatRequest) -> Answer | None:
        for name, cache in self.layers.items():
            answer = await cache.get(request)
            if answer is not None:
                self._counters.add(**{name: 1}, **saved_tokens(answer))
                return answer
        return None

    async def _ask(self, request: ChatRequest) -> Answer:
        answer = await self.service.complete(request)
        self._counters.add(model=1)
        await self._store(request, answer)
        return answer

    async def _store(self, request: ChatRequest, answer: Answer) -> None:
        for cache in self.layers.values():
            await cache.set(request, answer)

    def _flight_key(self, request: ChatRequest) -> str | None:
        """The first layer's key that has one: equal requests have equal ones."""
        keys = (cache.entry_key(request) for cache in self.layers.values())
        return next((key for key in keys if key is not None), None)
