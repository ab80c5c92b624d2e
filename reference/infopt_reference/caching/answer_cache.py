"""What the caches of answers share: what is kept, who computes, what is counted, what is survived.

Contract
- A sampled answer is kept only where ``cache_sampled`` says so: who asks for another draw each time
  gets one. Answers that are not whole (answer.py) and failures are never kept.
- An entry's time to live begins when it is written; hits do not extend it.
- Equal requests at the same time compute once (single_flight.py).
- What a caller does to an answer reaches neither the cache nor another caller.
- The cache never fails a request: a store that is down, slow, full or read-only, an entry that is
  not what was written, a request without a key are a miss and a warning in the log.
- Counters (counters.py) lose no update.

Leaves out: locks between processes, a breaker that stops asking a store that is down.
"""

from __future__ import annotations

import copy
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import ClassVar, Self

from .answer import Answer
from .codec import CodecError, decode
from .counters import Counters
from .keys import prefix
from .request import ChatRequest
from .single_flight import SingleFlight
from .store import Store

Compute = Callable[[], Awaitable[Answer]]
logger = logging.getLogger(__name__)


class AnswerCache(ABC):
    """Answers by request.

    Args:
        store: where the entries are; see `Store`.
        namespace: caches of one kind and namespace share their entries and counters.
        ttl: seconds that an entry lives; None for ever.
        cache_sampled: whether sampled answers are kept, too.

    Raises:
        ValueError: the namespace has braces, or the ttl is not above 0.
    """

    kind: ClassVar[str]  # part of every key

    def __init__(
        self,
        store: Store,
        namespace: str = "infopt",
        ttl: float | None = 3600.0,
        cache_sampled: bool = False,
    ) -> None:
        self.store = store
        self.prefix = prefix(namespace, self.kind)
        self.ttl = require_ttl(ttl)
        self.cache_sampled = cache_sampled
        self._counters = Counters(store, f"{self.prefix}counters")
        self._flights: SingleFlight[Answer] = SingleFlight()

    @abstractmethod
    def key(self, request: ChatRequest) -> str:
        """The name of the request's entry in the store.

        Raises:
            ValueError: the request has none.
        """

    @abstractmethod
    async def _read(self, request: ChatRequest, key: str) -> Answer | None:
        """The stored answer, or None; raises what the store raises."""

    @abstractmethod
    async def _write(
        self, request: ChatRequest, key: str, answer: Answer, ttl: float | None
    ) -> bool:
        """Stores an answer; whether it could be. Raises CodecError, and what the store raises."""

    def entry_key(self, request: ChatRequest) -> str | None:
        """The key, where the request's answer may be kept; None where it goes past the cache."""
        if request.is_sampled and not self.cache_sampled:
            return None
        try:
            return self.key(request)
        except ValueError as error:
            logger.warning("a request goes past the cache: %s", error)
            return None

    async def get(self, request: ChatRequest) -> Answer | None:
        """The stored answer, or None."""
        key = self.entry_key(request)
        return None if key is None else await self._get(request, key)

    async def set(self, request: ChatRequest, answer: Answer, ttl: float | None = None) -> None:
        """Keeps an answer, if it is one to keep, for ``ttl`` seconds (by default the cache's).

        Raises:
            ValueError: the ttl is not above 0.
        """
        require_ttl(ttl)
        key = self.entry_key(request)
        if key is not None:
            await self._set(request, key, answer, ttl)

    async def get_or_compute(self, request: ChatRequest, compute: Compute) -> Answer:
        """The stored answer, else that of ``compute``, which is kept.

        Raises whatever ``compute`` raises.
        """
        key = self.entry_key(request)
        if key is None:
            return await compute()
        landed = self._flights.landed
        answer = await self._get(request, key)
        if answer is not None:
            return answer

        async def work() -> Answer:
            # Looked up again where an equal request's flight may have ended since.
            again = self._flights.landed > landed
            known = await self._get(request, key, counts=False) if again else None
            if known is not None:
                self._counters.add(joined=1, **saved_tokens(known))
                return known
            computed = await compute()
            await self._set(request, key, computed, None)
            return computed

        answer, began = await self._flights.run(key, work)
        if not began:
            self._counters.add(joined=1, **saved_tokens(answer))
        return copy.deepcopy(answer)  # its caller may change it before others have woken up

    async def clear(self) -> None:
        """Removes all entries and counters of this namespace, and nothing else."""
        self._counters.discard()
        try:
            await self.store.delete_prefix(self.prefix)
        except Exception as error:
            logger.warning("the cache %s was not cleared: %r", self.prefix, error)

    async def counters(self) -> dict[str, int]:
        """Counts of all caches of this namespace; a name that is missing was never counted.

        hits and misses: look-ups; joined: misses that got an equal request's answer; writes;
        saved_prompt_tokens and saved_completion_tokens by hits and joined misses; corrupt: entries
        not read; failures of the store.
        """
        return await self._counters.read()

    async def close(self) -> None:
        """Sends the last counts. The store is its owner's to close."""
        await self._counters.flush()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _get(self, request: ChatRequest, key: str, counts: bool = True) -> Answer | None:
        try:
            answer = await self._read(request, key)
        except Exception as error:
            self._failed("read", error)
            answer = None
        if counts:
            self._count(answer)
        return answer

    async def _set(self, request: ChatRequest, key: str, answer: Answer, ttl: float | None) -> None:
        if not answer.is_whole:
            return
        try:
            written = await self._write(request, key, answer, self.ttl if ttl is None else ttl)
            self._counters.add(writes=int(written))
        except CodecError as error:
            logger.warning("%s", error)
        except Exception as error:
            self._failed("written", error)

    def _decode(self, key: str, value: bytes | None) -> Answer | None:
        """The answer of a stored value; None, with a warning, where it is not what was written."""
        try:
            return None if value is None else decode(key, value)
        except CodecError as error:
            self._counters.add(corrupt=1)
            logger.warning("an entry of the cache is not read: %s", error)
            return None

    def _count(self, answer: Answer | None) -> None:
        if answer is None:
            self._counters.add(misses=1)
        else:
            self._counters.add(hits=1, **saved_tokens(answer))

    def _failed(self, operation: str, error: Exception) -> None:
        self._counters.add(failures=1)
        logger.warning("the cache %s cannot be %s: %r", self.prefix, operation, error)


def require_ttl(ttl: float | None) -> float | None:
    """The time to live; ValueError unless it is None (for ever) or seconds above 0."""
    if ttl is not None and not (ttl > 0 and math.isfinite(ttl)):
        raise ValueError(f"ttl is {ttl}; give seconds above 0, or None for entries without end")
    return ttl


def saved_tokens(answer: Answer) -> dict[str, int]:
    """What the counters get for an answer that was not computed."""
    return {
        "saved_prompt_tokens": answer.prompt_tokens,
        "saved_completion_tokens": answer.completion_tokens,
    }
