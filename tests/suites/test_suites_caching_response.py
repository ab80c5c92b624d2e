"""ResponseCacheSuite accepts the reference in memory and on Redis."""

from __future__ import annotations

from typing import Any

import pytest
from caching_references import Reference, ReferenceOnRedis
from infopt_suites.caching import ResponseCacheSuite
from infopt_suites.caching.trial import Caches

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


def test_a_server_that_nobody_claimed_is_named() -> None:
    """What a client makes of no address is about its own arguments."""

    def make(spec: Any) -> Any:
        raise ValueError(f"Redis URL must not be {spec.redis_url}")

    with pytest.raises(ValueError, match="must not be None") as raised:
        ResponseCacheSuite().test_a_kept_answer_is_found(caches=Caches(make))
    (note,) = raised.value.__notes__
    assert 'the capability "redis" is not claimed' in note
