"""LayeredCacheSuite accepts the reference in memory and on Redis."""

from __future__ import annotations

import pytest
from caching_references import LayeredReference, LayeredReferenceOnRedis
from infopt_suites.caching import LayeredCacheSuite

_OFFERED = {
    "ttl",
    "clear",
    "counters",
    "compute",
    "single flight",
    "policy",
    "stream",
    "copies",
    "ttl per layer",
}


class TestInMemory(LayeredCacheSuite):
    capabilities = frozenset(_OFFERED)

    @pytest.fixture
    def make_layered_cache(self) -> type[LayeredReference]:
        return LayeredReference


class TestOnRedis(LayeredCacheSuite):
    capabilities = frozenset(_OFFERED | {"redis", "shared", "processes", "warns"})

    @pytest.fixture
    def make_layered_cache(self) -> type[LayeredReferenceOnRedis]:
        return LayeredReferenceOnRedis
