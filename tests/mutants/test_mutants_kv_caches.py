"""KVCacheSuite kills faulty caches by the property named for each, and spares the sound ones."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites.attention import KVCacheSuite
from infopt_suites.base import suite_tests
from kv_caches import AREA, MUTANTS, SOUND, CacheMutant, claims
from properties import needs, run_property


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_cache_is_killed(mutant: CacheMutant, counted: Any) -> None:
    counted("mutant", AREA)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_property(KVCacheSuite, mutant.broken, claims(mutant.fault), make_cache=mutant.fault)


@pytest.mark.parametrize(
    ("cache", "name"),
    [
        (cache, name)
        for cache in SOUND
        for name in suite_tests(KVCacheSuite)
        if needs(KVCacheSuite, name) <= cache.capabilities
        and ("memory_is" not in name or cache is not SOUND[2])  # skipped, it is quantized
    ],
)
def test_a_sound_cache_is_spared(cache: type[Any], name: str, counted: Any) -> None:
    counted("sound", AREA)
    run_property(KVCacheSuite, name, claims(cache), make_cache=cache)
