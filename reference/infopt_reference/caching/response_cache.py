"""Response cache: the answer of an equal request, for as long as its time to live.

    get_or_compute(request, compute) = stored answer of key(request), else compute(), and store it

Contract
- The key covers everything that changes the answer (keys.py, request.py): another model, tenant,
  adapter, message or parameter is another key.
- A sampled answer is kept only where ``cache_sampled`` says so: who asks for another draw each time
  gets one. Answers that are not whole (answer.py) and failures are never kept.
- An entry's time to live begins when it is written; hits do not extend it.
- Equal requests at the same time compute once (single_flight.py).
- What a caller does to an answer reaches neither the cache nor another caller.
- The cache never fails a request: a store that is down, slow, full or read-only, an entry that is
  not what was written, a request without a key are a miss and a warning in the log.
- A hit is one GET of the store. Counters (counters.py) lose no update.

Leaves out: locks between processes, a breaker that stops asking a store that is down.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from .answer import Answer
from .codec import CodecError, decode, encode
from .counters import Counters
from .keys import VERSION, digest, prefix
from .request import ChatRequest
from .single_flight import SingleFlight
from .store import Store

KIND = "answer"
Compute = Callable[[], Awaitable[Answer]]
ComputeMany = Callable[[Sequence[ChatRequest]], Awaitable[Sequence[Answer]]]
logger = logging.getLogger(__name__)


def require_ttl(ttl: float | None) -> float | None:
    """The time to live, if it is one: None (for ever) or seconds above 0.

    Raises:
        ValueError: it is not.
    """
    if ttl is not None and not (ttl > 0 and math.isfinite(ttl)):
        raise ValueError(f"ttl is {ttl}; give seconds above 0, or None for entries without end")
    return ttl


def saved_tokens(answer: Answer) -> dict[str, int]:
    """What the counters get for an answer that was not computed."""
    return {
        "saved_prompt_tokens": answer.prompt_tokens,
        "saved_completion_tokens": answer.completion_tokens,
    }


class ResponseCache:
    """Answers to equal requests.

    Args:
        store: where the entries are; see `Store`.
        namespace: caches of one namespace share their entries and counters.
        ttl: seconds that an entry lives; None for ever.
        cache_sampled: whether sampled answers are kept, too.

    Raises:
        ValueError: the namespace has braces, or the ttl is not above 0.
    """

    def __init__(
        self,
        store: Store,
        namespace: str = "infopt",
        ttl: float | None = 3600.0,
        cache_sampled: bool = False,
    ) -> None:
        self.store = store
        self.prefix = prefix(namespace, KIND)
        self.ttl = require_ttl(ttl)
        self.cache_sampled = cache_sampled
        self._counters = Counters(store, f"{self.prefix}counters")
        self._flights: SingleFlight[Answer] = SingleFlight()

    def key(self, request: ChatRequest) -> str:
        """The name of the request's entry in the store.

        Raises:
            ValueError: the request is not plain JSON.
        """
        return f"{self.prefix}v{VERSION}:{digest(request.content)}"

    async def get(self, request: ChatRequest) -> Answer | None:
        """The stored answer, or None."""
        key = self._key(request)
        return None if key is None else await self._get(key)

    async def set(self, request: ChatRequest, answer: Answer, ttl: float | None = None) -> None:
        """Keeps an answer, if it is one to keep, for ``ttl`` seconds (by default the cache's).

        Raises:
            ValueError: the ttl is not above 0.
        """
        require_ttl(ttl)
        key = self._key(request)
        if key is not None:
            await self._set(key, answer, ttl)

    async def get_or_compute(self, request: ChatRequest, compute: Compute) -> Answer:
        """The stored answer, else that of ``compute``, which is kept.

        Raises whatever ``compute`` raises.
        """
        key = self._key(request)
        if key is None:
            return await compute()
        landed = self._flights.landed
        answer = await self._get(key)
        if answer is not None:
            return answer

        async def work() -> Answer:
            # Looked up again where an equal request's flight may have ended since.
            again = self._flights.landed > landed
            computed = await self._get(key, counts=False) if again else None
            if computed is None:
                computed = await compute()
                await self._set(key, computed, None)
            return computed

        answer, began = await self._flights.run(key, work)
        if not began:
            self._counters.add(joined=1, **saved_tokens(answer))
        return copy.deepcopy(answer)  # its caller may change it before others have woken up

    async def get_or_compute_many(
        self, requests: Sequence[ChatRequest], compute: ComputeMany
    ) -> list[Answer]:
        """The answer of each request, in order; ``compute`` gets those without one, each once.

        It is not called where nothing is missing. Sampled requests that are not kept are all
        computed, equal ones too.

        Raises:
            ValueError: ``compute`` returned another number of answers than it got requests.
        """
        keys = [self._key(request) for request in requests]
        known = await self._get_many(list(dict.fromkeys(key for key in keys if key is not None)))
        missing: dict[str | int, ChatRequest] = {}  # by key; what has none by its place
        for place, (key, request) in enumerate(zip(keys, requests, strict=True)):
            if key not in known:
                missing.setdefault(place if key is None else key, request)
        computed = dict(zip(missing, await self._compute_many(missing, compute), strict=True))
        for name, answer in computed.items():
            if isinstance(name, str):
                await self._set(name, answer, None)
        answers = {**known, **computed}
        return [
            copy.deepcopy(answers[place if key is None else key]) for place, key in enumerate(keys)
        ]

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

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _key(self, request: ChatRequest) -> str | None:
        """The key, where the request's answer may be kept."""
        if request.is_sampled and not self.cache_sampled:
            return None
        try:
            return self.key(request)
        except ValueError as error:
            logger.warning("a request goes past the cache: %s", error)
            return None

    async def _get(self, key: str, counts: bool = True) -> Answer | None:
        try:
            value = await self.store.get(key)
        except Exception as error:
            self._failed("read", error)
            value = None
        answer = self._decode(key, value)
        if counts:
            self._count(answer)
        return answer

    async def _get_many(self, keys: Sequence[str]) -> dict[str | int, Answer]:
        values: Sequence[bytes | None] = [None] * len(keys)
        try:
            values = await self.store.get_many(keys)
        except Exception as error:
            self._failed("read", error)
        found: dict[str | int, Answer] = {}
        for key, value in zip(keys, values, strict=True):
            answer = self._decode(key, value)
            self._count(answer)
            if answer is not None:
                found[key] = answer
        return found

    async def _set(self, key: str, answer: Answer, ttl: float | None) -> None:
        if not answer.is_whole:
            return
        try:
            value = encode(key, answer)
        except CodecError as error:
            logger.warning("%s", error)
            return
        try:
            await self.store.set(key, value, self.ttl if ttl is None else ttl)
        except Exception as error:
            self._failed("written", error)
        else:
            self._counters.add(writes=1)

    @staticmethod
    async def _compute_many(
        missing: dict[str | int, ChatRequest], compute: ComputeMany
    ) -> Sequence[Answer]:
        if not missing:
            return []
        answers = await compute(list(missing.values()))
        if len(answers) != len(missing):
            raise ValueError(
                f"{len(answers)} answers came for {len(missing)} requests; return one for each, in "
                f"their order"
            )
        return answers

    def _decode(self, key: str, value: bytes | None) -> Answer | None:
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
