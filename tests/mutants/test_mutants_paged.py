"""PagedKVSuite kills faulty paged caches, each by its property, and spares the sound one."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites.attention import PagedKVSuite
from infopt_suites.base import suite_tests
from paged import AREA, MUTANTS, PagedMutant, SmallPagedKV
from properties import run_property

ATTRIBUTES = {"capabilities": set(PagedKVSuite.offers)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_paged_cache_is_killed(mutant: PagedMutant, counted: Any) -> None:
    counted("mutant", AREA)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_property(PagedKVSuite, mutant.broken, ATTRIBUTES, make_paged_kv=mutant.fault)


@pytest.mark.parametrize("name", suite_tests(PagedKVSuite))
def test_the_sound_paged_cache_is_spared(name: str, counted: Any) -> None:
    counted("sound", AREA)
    run_property(PagedKVSuite, name, ATTRIBUTES, make_paged_kv=SmallPagedKV)
