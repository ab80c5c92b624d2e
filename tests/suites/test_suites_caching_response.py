"""ResponseCacheSuite accepts the reference in memory and on Redis."""

from __future__ import annotations

import pytest
from caching_references import Reference, ReferenceOnRedis
from infopt_suites.caching import ResponseCacheSuite

_OFFERED = {
    "ttl",
    "clear",
    "counters",
    "compute",
    "single flight",
    "batch",
    "policy",
    "copies",
    "ttl per call",
}


class TestInMemory(ResponseCacheSuite):
    capabilities = frozenset(_OFFERED)

    @pytest.fixture
    def make_response_cache(self) -> type[Reference]:
        return Reference


class TestOnRedis(ResponseCacheSuite):
    capabilities = frozenset(_OFFERED | {"redis", "shared", "processes", "warns"})

    @pytest.fixture
    def make_response_cache(self) -> type[ReferenceOnRedis]:
        return ReferenceOnRedis
