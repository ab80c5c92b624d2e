"""litellm's Cache through ResponseCacheSuite, in memory, on disk and on Redis.

Keywords of a completion are the request. litellm knows no tenants and no adapters; fields that the
OpenAI API has not are part of the key with a flag, which is set here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest
from infopt_suites.caching import CacheSpec, ResponseCacheSuite
from infopt_suites.caching.requests import FIELDS

litellm = pytest.importorskip("litellm")
from litellm.caching.caching import Cache  # noqa: E402

Request = Mapping[str, Any]


class LitellmCache:
    """`Cache` of type "local" as the suite's protocol."""

    def __init__(self, spec: CacheSpec) -> None:
        self.cache = self.make_cache(spec)

    def make_cache(self, spec: CacheSpec) -> Any:
        return Cache(type="local", namespace=spec.namespace, ttl=spec.ttl)

    async def get(self, request: Request) -> Any:
        return await self.cache.async_get_cache(**copy.deepcopy(dict(request)))

    async def set(self, request: Request, answer: Mapping[str, Any]) -> None:
        await self.cache.async_add_cache(answer, **copy.deepcopy(dict(request)))


@pytest.fixture(autouse=True)
def whole_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litellm, "enable_caching_on_provider_specific_optional_params", True)


# The first is shown alone in tests/findings/test_findings_litellm_cache.py.
_OWN_OBJECT = "a hit gives the kept object itself away"
_MISSES = {
    "test_the_order_of_keys_makes_no_difference": "arguments in the order of the call: a miss",
    "test_what_changes_no_answer_makes_no_difference": "timeout and user are part of the key",
}


class TestLocal(ResponseCacheSuite):
    capabilities = frozenset({"copies", "values"})
    expected_failures: ClassVar[Mapping[str, str]] = {
        "test_changing_an_answer_does_not_change_the_kept_one": _OWN_OBJECT,
        **_MISSES,
    }
    fields = tuple(name for name in FIELDS if name not in ("tenant", "adapter"))

    @pytest.fixture
    def make_response_cache(self) -> type[LitellmCache]:
        return LitellmCache


class LitellmRedisCache(LitellmCache):
    """`Cache` of type "redis"."""

    def make_cache(self, spec: CacheSpec) -> Any:
        assert spec.redis_url is not None
        server = urlsplit(spec.redis_url)
        return Cache(
            type="redis",
            host=server.hostname,
            port=str(server.port),
            namespace=spec.namespace,
            ttl=spec.ttl,
            socket_timeout=spec.redis_timeout,
        )

    async def close(self) -> None:
        await self.cache.disconnect()


class TestRedis(ResponseCacheSuite):
    capabilities = frozenset({"redis", "shared", "ttl"})
    expected_failures: ClassVar[Mapping[str, str]] = {
        "test_damaged_entries_are_misses": "whatever is JSON or a literal is taken for an answer",
        "test_a_store_that_fails_is_a_miss": "after five failures it is not asked for a minute",
        "test_without_a_time_to_live_nothing_ends": "without a ttl it is a minute",
        **_MISSES,
    }
    fields = TestLocal.fields

    @pytest.fixture
    def make_response_cache(self) -> type[LitellmRedisCache]:
        return LitellmRedisCache
