"""The reference's caches as the suites' protocols: plain mappings for its classes, and back."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from infopt_reference.caching.answer import Answer
from infopt_reference.caching.layered import LayeredLLMService
from infopt_reference.caching.redis_store import RedisStore
from infopt_reference.caching.request import ChatRequest
from infopt_reference.caching.response_cache import ResponseCache
from infopt_reference.caching.semantic_cache import SemanticCache
from infopt_reference.caching.service import StreamChunk
from infopt_reference.caching.store import MemoryStore
from infopt_suites.caching import CacheSpec, LayeredSpec, SemanticSpec
from infopt_suites.caching.protocol import Compute, ComputeBatch


def to_answer(answer: Mapping[str, Any]) -> Answer:
    usage = answer["usage"]
    own = ("content", "tool_calls", "finish_reason", "usage")
    return Answer(
        content=answer["content"],
        tool_calls=copy.deepcopy(answer.get("tool_calls")),
        finish_reason=answer["finish_reason"],
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        extra={name: copy.deepcopy(value) for name, value in answer.items() if name not in own},
    )


def from_answer(answer: Answer | None) -> dict[str, Any] | None:
    if answer is None:
        return None
    tokens = answer.prompt_tokens, answer.completion_tokens
    usage = {
        "prompt_tokens": tokens[0],
        "completion_tokens": tokens[1],
        "total_tokens": sum(tokens),
    }
    calls = {} if answer.tool_calls is None else {"tool_calls": answer.tool_calls}
    return {
        "content": answer.content,
        "finish_reason": answer.finish_reason,
        "usage": usage,
        **calls,
        **answer.extra,
    }


def memory_store(spec: CacheSpec) -> MemoryStore:
    return MemoryStore(clock=spec.clock)


def redis_store(spec: CacheSpec) -> RedisStore:
    assert spec.redis_url is not None
    return RedisStore(spec.redis_url, timeout=spec.redis_timeout)


class Reference:
    """`ResponseCache` on a store in memory."""

    make_store: Any = staticmethod(memory_store)

    def __init__(self, spec: CacheSpec) -> None:
        self.store = self.make_store(spec)
        self.cache = self.make_cache(spec)

    def make_cache(self, spec: Any) -> Any:
        return ResponseCache(self.store, spec.namespace, spec.ttl, spec.cache_sampled)

    async def get(self, request: Mapping[str, Any]) -> Any:
        return from_answer(await self.cache.get(ChatRequest.from_mapping(request)))

    async def set(
        self, request: Mapping[str, Any], answer: Mapping[str, Any], *, ttl: float | None = None
    ) -> None:
        await self.cache.set(ChatRequest.from_mapping(request), to_answer(answer), ttl)

    async def get_or_compute(self, request: Mapping[str, Any], compute: Compute) -> Any:
        async def work() -> Answer:
            return to_answer(await compute())

        chat = ChatRequest.from_mapping(request)
        return from_answer(await self.cache.get_or_compute(chat, work))

    async def get_or_compute_batch(
        self, requests: Sequence[Mapping[str, Any]], compute: ComputeBatch
    ) -> Any:
        chats = [ChatRequest.from_mapping(request) for request in requests]
        body = {id(chat): request for chat, request in zip(chats, requests, strict=True)}

        async def work(missing: Sequence[ChatRequest]) -> list[Answer]:
            answers = await compute([body[id(chat)] for chat in missing])
            ordered = sorted(answers, key=lambda answer: answer["index"])
            return [to_answer(answer) for answer in ordered]

        found = await self.cache.get_or_compute_many(chats, work)
        return [{**(from_answer(answer) or {}), "index": i} for i, answer in enumerate(found)]

    async def clear(self) -> None:
        await self.cache.clear()

    async def counters(self) -> Mapping[str, int]:
        return {"hits": 0, "misses": 0, **await self.cache.counters()}

    async def close(self) -> None:
        await self.cache.close()
        await self.store.close()


class ReferenceOnRedis(Reference):
    """`ResponseCache` on a Redis server."""

    make_store = staticmethod(redis_store)


class SpecEmbedder:
    """The suite's embedder as the reference's protocol."""

    def __init__(self, spec: SemanticSpec) -> None:
        self.name, self.dimension, self._embed = spec.embedder, spec.dimension, spec.embed

    async def embed(self, texts: Sequence[str]) -> Any:
        return [self._embed(text) for text in texts]


class SemanticReference(Reference):
    """`SemanticCache` on a store in memory."""

    def make_cache(self, spec: Any) -> SemanticCache:
        return SemanticCache(
            self.store,
            SpecEmbedder(spec),
            spec.threshold,
            spec.namespace,
            spec.ttl,
            spec.cache_sampled,
            spec.capacity,
        )


class SemanticReferenceOnRedis(SemanticReference):
    """`SemanticCache` on a Redis server."""

    make_store = staticmethod(redis_store)


class ModelAsService:
    """The suite's model as the reference's `LLMService`."""

    def __init__(self, model: Any) -> None:
        self.model = model

    async def complete(self, request: ChatRequest) -> Answer:
        return to_answer(await self.model.complete(_body(request)))

    async def stream(self, request: ChatRequest) -> AsyncIterator[StreamChunk]:
        text = ""
        async with aclosing(self.model.stream(_body(request))) as chunks:
            async for chunk in chunks:
                text += chunk["content"]
                if "finish_reason" in chunk:
                    yield StreamChunk(answer=to_answer({**chunk, "content": text}))
                else:
                    yield StreamChunk(chunk["content"])


def _body(request: ChatRequest) -> dict[str, Any]:
    return {"model": request.model, "messages": request.messages, **request.parameters}


class LayeredReference:
    """`LayeredLLMService` on a store in memory."""

    make_store: Any = staticmethod(memory_store)

    def __init__(self, spec: LayeredSpec) -> None:
        self.store = self.make_store(spec)
        sampled = spec.cache_sampled
        ttls = [spec.ttl if own is None else own for own in (spec.exact_ttl, spec.semantic_ttl)]
        exact = ResponseCache(self.store, spec.namespace, ttls[0], sampled)
        semantic = SemanticCache(
            self.store, SpecEmbedder(spec), spec.threshold, spec.namespace, ttls[1], sampled
        )
        model = ModelAsService(spec.model)
        self.service = LayeredLLMService(model, exact, semantic, spec.namespace)

    async def complete(self, request: Mapping[str, Any], *, bypass: bool = False) -> Any:
        chat = ChatRequest.from_mapping(request)
        return from_answer(await self.service.complete(chat, bypass=bypass))

    async def stream(self, request: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        async with aclosing(self.service.stream(ChatRequest.from_mapping(request))) as chunks:
            async for chunk in chunks:
                whole = from_answer(chunk.answer)
                yield {"content": chunk.text} if whole is None else {**whole, "content": ""}

    async def clear(self) -> None:
        await self.service.clear()

    async def counters(self) -> Mapping[str, int]:
        return {"exact": 0, "semantic": 0, "model": 0, **await self.service.counters()}

    async def close(self) -> None:
        await self.service.close()
        await self.store.close()


class LayeredReferenceOnRedis(LayeredReference):
    """`LayeredLLMService` on a Redis server."""

    make_store = staticmethod(redis_store)
