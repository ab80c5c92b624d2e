"""SemanticCacheSuite accepts the reference in memory and on Redis."""

from __future__ import annotations

import pytest
from caching_references import SemanticReference, SemanticReferenceOnRedis
from infopt_suites.caching import SemanticCacheSuite

_OFFERED = {
    "ttl",
    "capacity",
    "clear",
    "counters",
    "compute",
    "single flight",
    "policy",
    "copies",
    "ttl per call",
}


class TestInMemory(SemanticCacheSuite):
    capabilities = frozenset(_OFFERED)

    @pytest.fixture
    def make_semantic_cache(self) -> type[SemanticReference]:
        return SemanticReference


class TestOnRedis(SemanticCacheSuite):
    capabilities = frozenset(_OFFERED | {"redis", "shared", "processes", "warns"})

    @pytest.fixture
    def make_semantic_cache(self) -> type[SemanticReferenceOnRedis]:
        return SemanticReferenceOnRedis
