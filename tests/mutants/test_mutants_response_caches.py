"""ResponseCacheSuite kills faulty caches by the property named for each, and spares sound ones."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites.base import suite_tests
from infopt_suites.caching import ResponseCacheSuite, computing_properties
from infopt_suites.caching.trial import Caches, Trial
from joined_response_caches import JOINED_MUTANTS, NORMALIZED
from properties import declared, needs, run_property
from response_caches import AREA, MUTANTS, SOUND, CacheMutant, NoTimeout
from shared_response_caches import SHARED_MUTANTS, SHARED_SOUND

ALL_MUTANTS = [*MUTANTS, *SHARED_MUTANTS, *JOINED_MUTANTS]
ALL_SOUND = [*SOUND, *SHARED_SOUND, *NORMALIZED]


@pytest.mark.parametrize("mutant", ALL_MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_cache_is_killed(
    mutant: CacheMutant, redis_server: Any, counted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted("mutant", AREA)
    monkeypatch.setattr(computing_properties, "PATIENCE", 1.0)
    if mutant.fault is NoTimeout:  # it hangs, for as long as it is given
        judge = Trial.judge
        monkeypatch.setattr(Trial, "judge", lambda trial, holds, _: judge(trial, holds, 3.0))
    claimed = mutant.fault.capabilities
    caches = Caches(mutant.fault, redis_server.url if "redis" in claimed else None)
    with pytest.raises(mutant.by):
        run_property(
            ResponseCacheSuite,
            mutant.broken,
            declared(ResponseCacheSuite, mutant.fault),
            caches=caches,
        )


@pytest.mark.parametrize(
    ("cache", "name"),
    [
        (cache, name)
        for cache in ALL_SOUND
        for name in suite_tests(ResponseCacheSuite)
        if needs(ResponseCacheSuite, name) <= cache.capabilities
    ],
)
def test_a_sound_cache_is_spared(cache: Any, name: str, redis_server: Any, counted: Any) -> None:
    counted("sound", AREA)
    url = redis_server.url if "redis" in cache.capabilities else None
    attributes = declared(ResponseCacheSuite, cache)
    run_property(ResponseCacheSuite, name, attributes, caches=Caches(cache, url))
