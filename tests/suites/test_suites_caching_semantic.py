"""SemanticCacheSuite accepts the reference in memory and on Redis."""

from __future__ import annotations

from typing import Any

import pytest
from caching_references import SemanticReference, SemanticReferenceOnRedis
from infopt_suites.caching import SemanticCacheSuite
from infopt_suites.caching.semantic import semantic_caches

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


class WithoutFields(SemanticReference):
    """Knows nothing of models, tenants, adapters and seeds."""

    async def get(self, request: Any) -> Any:
        return await super().get(self._known(request))

    async def set(self, request: Any, answer: Any, **options: Any) -> None:
        await super().set(self._known(request), answer, **options)

    def _known(self, request: Any) -> dict[str, Any]:
        unknown = ("tenant", "adapter", "seed", "top_p")
        same = {"model": "the only one"}
        return {name: request[name] for name in request if name not in unknown} | same


@pytest.mark.parametrize(
    "name",
    [
        "test_any_sequence_agrees_with_a_dictionary",
        "test_other_contexts_do_not_stand_in_the_way",
        "test_only_questions_of_the_same_context_are_compared",
    ],
)
def test_a_cache_may_know_messages_alone(name: str) -> None:
    members = {"capabilities": frozenset(_OFFERED), "fields": ("messages",)}
    suite = type("Trial", (SemanticCacheSuite,), members)()
    getattr(suite, name)(caches=semantic_caches(WithoutFields, None))
