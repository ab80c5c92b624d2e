"""SemanticCacheSuite kills faulty caches by the property named for each, and spares sound ones."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites.base import suite_tests
from infopt_suites.caching import SemanticCacheSuite
from infopt_suites.caching.semantic import semantic_caches
from properties import declared, needs, run_property
from semantic_caches import AREA, MUTANTS, SOUND, SemanticMutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_cache_is_killed(mutant: SemanticMutant, redis_server: Any, counted: Any) -> None:
    counted("mutant", AREA)
    claimed = mutant.fault.capabilities
    caches = semantic_caches(mutant.fault, redis_server.url if "redis" in claimed else None)
    with pytest.raises(mutant.by):
        run_property(
            SemanticCacheSuite,
            mutant.broken,
            declared(SemanticCacheSuite, mutant.fault),
            caches=caches,
        )


@pytest.mark.parametrize(
    ("cache", "name"),
    [
        (cache, name)
        for cache in SOUND
        for name in suite_tests(SemanticCacheSuite)
        if needs(SemanticCacheSuite, name) <= cache.capabilities
    ],
)
def test_a_sound_cache_is_spared(cache: Any, name: str, redis_server: Any, counted: Any) -> None:
    counted("sound", AREA)
    url = redis_server.url if "redis" in cache.capabilities else None
    attributes = declared(SemanticCacheSuite, cache)
    run_property(SemanticCacheSuite, name, attributes, caches=semantic_caches(cache, url))
