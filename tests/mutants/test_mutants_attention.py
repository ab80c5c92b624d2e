"""AttentionSuite kills faulty kernels by the property named for each, and spares the sound one."""

from __future__ import annotations

from typing import Any

import pytest
from attention import AREA, MUTANTS, AttentionMutant, SmallAttention
from infopt_suites.attention import AttentionSuite
from infopt_suites.base import suite_tests
from properties import run_property

ATTRIBUTES = {"capabilities": set(AttentionSuite.offers)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_attention_is_killed(mutant: AttentionMutant, counted: Any) -> None:
    counted("mutant", AREA)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_property(AttentionSuite, mutant.broken, ATTRIBUTES, make_attention=mutant.fault)


@pytest.mark.parametrize("name", suite_tests(AttentionSuite))
def test_the_sound_attention_is_spared(name: str, counted: Any) -> None:
    counted("sound", AREA)
    run_property(AttentionSuite, name, ATTRIBUTES, make_attention=SmallAttention)
