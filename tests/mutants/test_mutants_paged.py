"""PagedKVSuite kills faulty paged caches by the property named for each, and spares sound ones."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites.attention import PagedKVSuite
from paged import AREA, MUTANTS, SOUND, PagedMutant, SmallPagedKV, claims
from properties import claimed_tests, run_property


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_paged_cache_is_killed(mutant: PagedMutant, counted: Any) -> None:
    counted("mutant", AREA)
    errors = (AssertionError, pytest.fail.Exception, AttributeError)
    with pytest.raises(errors) as raised:
        run_property(PagedKVSuite, mutant.broken, claims(mutant.fault), make_paged_kv=mutant.fault)
    if raised.type is AttributeError:
        assert "is taken for a slip" in "".join(raised.value.__notes__)


@pytest.mark.parametrize(
    ("cache", "name"),
    [(cache, name) for cache in SOUND for name in claimed_tests(PagedKVSuite, cache.capabilities)],
)
def test_a_sound_paged_cache_is_spared(cache: type[SmallPagedKV], name: str, counted: Any) -> None:
    counted("sound", AREA)
    run_property(PagedKVSuite, name, claims(cache), make_paged_kv=cache)
