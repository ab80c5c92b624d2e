"""RopeSuite kills faulty rotary embeddings by the property named for each, and spares the sound."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites.attention import RopeSuite
from infopt_suites.base import suite_tests
from properties import run_property
from ropes import AREA, MUTANTS, RopeMutant, SmallRope

ATTRIBUTES = {"capabilities": set(RopeSuite.offers)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_rope_is_killed(mutant: RopeMutant, counted: Any) -> None:
    counted("mutant", AREA)
    with pytest.raises(AssertionError):
        run_property(RopeSuite, mutant.broken, ATTRIBUTES, make_rope=mutant.fault)


@pytest.mark.parametrize("name", suite_tests(RopeSuite))
def test_the_sound_rope_is_spared(name: str, counted: Any) -> None:
    counted("sound", AREA)
    run_property(RopeSuite, name, ATTRIBUTES, make_rope=SmallRope)
