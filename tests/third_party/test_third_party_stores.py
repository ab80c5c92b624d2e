"""cachetools, cashews and aiocache in memory, diskcache on disk, through ResponseCacheSuite.

Stores of keys and values: the key is the adapter's, the request as JSON with sorted keys, and so
are copies where a store keeps references. Ends, room, sharing and values are the libraries' own.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from infopt_suites.caching import CacheSpec, ResponseCacheSuite
from infopt_suites.caching.requests import IRRELEVANT

Request = Mapping[str, Any]


def key_of(request: Request) -> str:
    """Equal for requests that differ in the order of keys, or in what changes no answer."""
    return json.dumps(
        {name: value for name, value in request.items() if name not in IRRELEVANT}, sort_keys=True
    )


class CachetoolsCache:
    """`TTLCache`, which evicts what was used least recently."""

    def __init__(self, spec: CacheSpec) -> None:
        cachetools = pytest.importorskip("cachetools")
        room = math.inf if spec.capacity is None else spec.capacity
        ttl = math.inf if spec.ttl is None else spec.ttl
        self.cache = cachetools.TTLCache(room, ttl, timer=spec.clock)

    def lookup(self, request: Request) -> Any:
        return copy.deepcopy(self.cache.get(key_of(request)))

    def keep(self, request: Request, answer: Mapping[str, Any]) -> None:
        self.cache[key_of(request)] = copy.deepcopy(answer)

    async def get(self, request: Request) -> Any:
        return self.lookup(request)

    async def set(self, request: Request, answer: Mapping[str, Any]) -> None:
        self.keep(request, answer)

    async def clear(self) -> None:
        self.cache.clear()


class TestCachetools(ResponseCacheSuite):
    capabilities = frozenset({"ttl", "capacity", "clear", "copies", "sync", "sync set", "values"})

    @pytest.fixture
    def make_response_cache(self) -> type[CachetoolsCache]:
        return CachetoolsCache


class DiskCache:
    """`diskcache.Cache` in the namespace's directory: SQLite, and files for large answers."""

    def __init__(self, spec: CacheSpec) -> None:
        diskcache = pytest.importorskip("diskcache")
        self.ttl = spec.ttl
        self.cache = diskcache.Cache(str(spec.directory), statistics=True)

    def lookup(self, request: Request) -> Any:
        return self.cache.get(key_of(request))

    def keep(
        self, request: Request, answer: Mapping[str, Any], *, ttl: float | None = None
    ) -> None:
        self.cache.set(key_of(request), answer, expire=self.ttl if ttl is None else ttl)

    async def get(self, request: Request) -> Any:
        return self.lookup(request)

    async def set(
        self, request: Request, answer: Mapping[str, Any], *, ttl: float | None = None
    ) -> None:
        self.keep(request, answer, ttl=ttl)

    async def clear(self) -> None:
        self.cache.clear()

    async def counters(self) -> Mapping[str, int]:
        hits, misses = self.cache.stats()
        return {"hits": hits, "misses": misses}

    async def close(self) -> None:
        self.cache.close()


class TestDiskCache(ResponseCacheSuite):
    capabilities = frozenset(
        {
            *("shared", "processes", "ttl", "ttl per call", "clear", "counters"),
            *("copies", "sync", "sync set", "values"),
        }
    )

    @pytest.fixture
    def make_response_cache(self) -> type[DiskCache]:
        return DiskCache


class CashewsCache:
    """`Cache` on its memory, whose entries are found by their age alone: nothing sweeps."""

    def __init__(self, spec: CacheSpec) -> None:
        library = pytest.importorskip("cashews")
        self.ttl = spec.ttl
        self.cache = library.Cache()
        self.cache.setup("mem://", size=10**9, check_interval=0)

    async def get(self, request: Request) -> Any:
        return copy.deepcopy(await self.cache.get(key_of(request)))

    async def set(
        self, request: Request, answer: Mapping[str, Any], *, ttl: float | None = None
    ) -> None:
        expire = self.ttl if ttl is None else ttl
        await self.cache.set(key_of(request), copy.deepcopy(answer), expire=expire)

    async def clear(self) -> None:
        await self.cache.clear()

    async def close(self) -> None:
        await self.cache.close()


class TestCashews(ResponseCacheSuite):
    capabilities = frozenset({"ttl", "ttl per call", "clear", "copies", "values"})
    expected_failures = {  # noqa: RUF012  # read only
        "test_no_time_to_live_is_no_long_one": "tests/findings/test_findings_cashews_zero.py"
    }

    @pytest.fixture
    def make_response_cache(self) -> type[CashewsCache]:
        return CashewsCache


class AiocacheCache:
    """`SimpleMemoryCache`. Its entries end by a timer of the event loop, so that no ttl is asked
    for: the suite's clock has none."""

    def __init__(self, spec: CacheSpec) -> None:
        self.cache = pytest.importorskip("aiocache").SimpleMemoryCache()

    async def get(self, request: Request) -> Any:
        return copy.deepcopy(await self.cache.get(key_of(request)))

    async def set(self, request: Request, answer: Mapping[str, Any]) -> None:
        await self.cache.set(key_of(request), copy.deepcopy(answer))

    async def clear(self) -> None:
        await self.cache.clear()


class TestAiocache(ResponseCacheSuite):
    capabilities = frozenset({"clear", "copies", "values"})

    @pytest.fixture
    def make_response_cache(self) -> type[AiocacheCache]:
        return AiocacheCache
