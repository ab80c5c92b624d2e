"""AttentionSuite kills faulty kernels by the property named for each, and spares the sound ones."""

from __future__ import annotations

from typing import Any

import pytest
from attention import AREA, MUTANTS, SOUND, AttentionMutant, claims
from infopt_suites.attention import AttentionSuite
from properties import claimed_tests, run_property


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_attention_is_killed(mutant: AttentionMutant, counted: Any) -> None:
    counted("mutant", AREA)
    attributes = {"capabilities": claims(mutant.fault)}
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_property(AttentionSuite, mutant.broken, attributes, make_attention=mutant.fault)


@pytest.mark.parametrize(
    ("kernel", "name"),
    [(kernel, name) for kernel in SOUND for name in claimed_tests(AttentionSuite, claims(kernel))],
)
def test_a_sound_attention_is_spared(kernel: Any, name: str, counted: Any) -> None:
    counted("sound", AREA)
    attributes = {"capabilities": claims(kernel)}
    run_property(AttentionSuite, name, attributes, make_attention=kernel)
