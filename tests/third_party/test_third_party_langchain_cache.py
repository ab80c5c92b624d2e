"""LangChain's caches through ResponseCacheSuite, as its chat models use them.

A request becomes messages and keyword arguments of a chat model, by whose own methods both keys
are made. LangChain knows no tenants and no adapters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar

import pytest
from infopt_suites.caching import CacheSpec, ResponseCacheSuite
from infopt_suites.caching.protocol import Compute
from infopt_suites.caching.requests import FIELDS
from redis_stack_server import redis_stack

pytest.importorskip("langchain_core")
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, convert_to_messages
from langchain_core.outputs import ChatGeneration, ChatResult

Request = Mapping[str, Any]
_told: ContextVar[Compute] = ContextVar("told")


class ToldModel(BaseChatModel):
    """A chat model that answers what it is told."""

    @property
    def _llm_type(self) -> str:
        return "told"

    def _generate(self, messages: Any, *args: Any, **keywords: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(self, messages: Any, *args: Any, **keywords: Any) -> ChatResult:
        return ChatResult(generations=[_generation(await _told.get()())])


def _generation(answer: Mapping[str, Any]) -> ChatGeneration:
    content = answer["content"] or ""
    return ChatGeneration(message=AIMessage(content=content, additional_kwargs={"answer": answer}))


class LangChainCache:
    """A cache of LangChain as the suite's protocol."""

    def __init__(self, spec: CacheSpec) -> None:
        self.cache = self.make_cache(spec)
        self.model = ToldModel(cache=self.cache)

    def make_cache(self, spec: CacheSpec) -> Any:
        return InMemoryCache(maxsize=spec.capacity)

    async def get(self, request: Request) -> Any:
        found = await self.cache.alookup(*self._keys(request))
        return found[0].message.additional_kwargs["answer"] if found else None

    async def set(self, request: Request, answer: Mapping[str, Any]) -> None:
        await self.cache.aupdate(*self._keys(request), [_generation(answer)])

    async def get_or_compute(self, request: Request, compute: Compute) -> Any:
        token = _told.set(compute)
        try:
            message = await self.model.ainvoke(_messages(request), **_arguments(request))
            return message.additional_kwargs["answer"]
        finally:
            _told.reset(token)

    async def clear(self) -> None:
        await self.cache.aclear()

    def _keys(self, request: Request) -> tuple[str, str]:
        arguments = _arguments(request)
        stop = arguments.pop("stop", None)
        return dumps(_messages(request)), self.model._get_llm_string(stop=stop, **arguments)


def _messages(request: Request) -> Any:
    return convert_to_messages(request["messages"])


def _arguments(request: Request) -> dict[str, Any]:
    left_out = ("messages", "timeout", "user", "metadata")
    return {name: value for name, value in request.items() if name not in left_out}


# The first two are shown alone in tests/findings/test_findings_langchain_cache.py.
_OWN_OBJECT = "a hit gives the kept object itself away"
_ROOM = "a full cache evicts the oldest for a request that is there already"
_ORDER = "parts of a message and arguments are hashed in the order of their keys: a miss"
_PATTERN = "the prefix goes into SCAN's pattern as it is"
_RAISED = "errors of the server and of entries that cannot be read are the caller's"


class TestInMemoryCache(ResponseCacheSuite):
    capabilities = frozenset({"capacity", "clear", "compute", "copies", "values"})
    expected_failures: ClassVar[Mapping[str, str]] = {
        "test_changing_an_answer_does_not_change_the_kept_one": _OWN_OBJECT,
        "test_keeping_an_answer_anew_takes_no_room": _ROOM,
        "test_the_order_of_keys_makes_no_difference": _ORDER,
    }
    fields = tuple(name for name in FIELDS if name not in ("tenant", "adapter"))

    @pytest.fixture
    def make_response_cache(self) -> type[LangChainCache]:
        return LangChainCache


class LangChainRedisCache(LangChainCache):
    """langchain-redis' RedisCache."""

    def make_cache(self, spec: CacheSpec) -> Any:
        langchain_redis = pytest.importorskip("langchain_redis")
        ttl = None if spec.ttl is None else round(spec.ttl)
        return langchain_redis.RedisCache(spec.redis_url, ttl=ttl, prefix=spec.namespace)

    async def close(self) -> None:
        self.cache.redis.close()


class TestRedisCache(ResponseCacheSuite):
    capabilities = frozenset({"redis", "shared", "ttl", "clear", "compute"})
    expected_failures: ClassVar[Mapping[str, str]] = {
        "test_clearing_forgets_all_of_this_namespace_and_no_other": _PATTERN,
        "test_damaged_entries_are_misses": _RAISED,
        "test_a_store_that_fails_is_a_miss": _RAISED,
        "test_a_store_that_is_down_at_the_start_is_a_miss": _RAISED,
        "test_the_order_of_keys_makes_no_difference": _ORDER,
    }
    fields = TestInMemoryCache.fields

    @pytest.fixture(scope="class")
    def redis_stack(self) -> Iterator[Any]:
        yield from redis_stack()

    @pytest.fixture
    def redis_url(self, redis_stack: Any) -> str:
        return str(redis_stack.url)

    @pytest.fixture
    def make_response_cache(self) -> type[LangChainRedisCache]:
        return LangChainRedisCache
