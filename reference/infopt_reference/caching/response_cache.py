"""Response cache: the answer of an equal request, for as long as its time to live.

    get_or_compute(request, compute) = stored answer of key(request), else compute(), and store it

Contract. The key covers everything that changes the answer (keys.py, request.py): another model,
tenant, adapter, message or parameter is another key. A hit is one GET of the store. All else is
what caches of answers share (answer_cache.py).
Leaves out: answers to requests that only mean the same (semantic_cache.py).
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Sequence

from .answer import Answer
from .answer_cache import AnswerCache
from .codec import encode
from .keys import VERSION, digest
from .request import ChatRequest

ComputeMany = Callable[[Sequence[ChatRequest]], Awaitable[Sequence[Answer]]]


class ResponseCache(AnswerCache):
    """Answers to equal requests; the arguments are those of `AnswerCache`."""

    kind = "answer"

    def key(self, request: ChatRequest) -> str:
        return f"{self.prefix}v{VERSION}:{digest(request.content)}"

    async def get_or_compute_many(
        self, requests: Sequence[ChatRequest], compute: ComputeMany
    ) -> list[Answer]:
        """The answer of each request, in order; ``compute`` gets those without one, each once.

        It is not called where nothing is missing. Sampled requests that are not kept are all
        computed, equal ones too.

        Raises:
            ValueError: ``compute`` returned another number of answers than it got requests.
        """
        keys = [self.entry_key(request) for request in requests]
        known = await self._get_many(list(dict.fromkeys(key for key in keys if key is not None)))
        names = [place if key is None else key for place, key in enumerate(keys)]
        missing: dict[str | int, ChatRequest] = {}  # by key; what has none by its place
        for name, request in zip(names, requests, strict=True):
            if name not in known:
                missing.setdefault(name, request)
        computed = dict(zip(missing, await _compute_many(missing, compute), strict=True))
        for name, answer in computed.items():
            if isinstance(name, str):
                await self._set(missing[name], name, answer, None)
        answers = known | computed
        return [copy.deepcopy(answers[name]) for name in names]

    async def _read(self, request: ChatRequest, key: str) -> Answer | None:
        return self._decode(key, await self.store.get(key))

    async def _write(
        self, request: ChatRequest, key: str, answer: Answer, ttl: float | None
    ) -> bool:
        await self.store.set(key, encode(key, answer), ttl)
        return True

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
