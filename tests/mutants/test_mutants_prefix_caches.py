"""PrefixCacheSuite kills faulty prefix caches, each by its property, and spares sound ones."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites.attention import PrefixCacheSuite
from infopt_suites.base import suite_tests
from prefix_caches import AREA, MUTANTS, SOUND, PrefixMutant
from properties import needs, run_property


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_prefix_cache_is_killed(mutant: PrefixMutant, counted: Any) -> None:
    counted("mutant", AREA)
    attributes = {"capabilities": mutant.fault.capabilities}
    errors = (AssertionError, pytest.fail.Exception, AttributeError)
    with pytest.raises(errors) as raised:
        run_property(PrefixCacheSuite, mutant.broken, attributes, make_prefix_cache=mutant.fault)
    if raised.type is AttributeError:
        assert "is taken for a slip" in "".join(raised.value.__notes__)


@pytest.mark.parametrize(
    ("cache", "name"),
    [
        (cache, name)
        for cache in SOUND
        for name in suite_tests(PrefixCacheSuite)
        if needs(PrefixCacheSuite, name) <= cache.capabilities
    ],
)
def test_a_sound_prefix_cache_is_spared(cache: Any, name: str, counted: Any) -> None:
    counted("sound", AREA)
    attributes = {"capabilities": cache.capabilities}
    run_property(PrefixCacheSuite, name, attributes, make_prefix_cache=cache)
