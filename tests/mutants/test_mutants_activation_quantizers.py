"""ActivationQuantizerSuite kills faulty quantizers by the property named, and spares the sound."""

from __future__ import annotations

from typing import Any

import pytest
from activation_quantizers import (
    ACTIVATION_MUTANTS,
    AREA,
    BROKEN,
    SOUND,
    ActivationMutant,
    SmallActivations,
)
from infopt_suites import ActivationQuantizerSuite
from infopt_suites.base import suite_tests
from properties import claimed_tests, run_property


@pytest.mark.parametrize(
    "mutant", ACTIVATION_MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}"
)
def test_a_faulty_quantizer_is_killed(mutant: ActivationMutant, counted: Any) -> None:
    counted("mutant", AREA)
    with pytest.raises((AssertionError, RuntimeError, pytest.fail.Exception)):
        run_property(
            ActivationQuantizerSuite,
            mutant.broken,
            mutant.attributes,
            make_activation_quantizer=mutant.fault,
        )


@pytest.mark.parametrize(
    ("quantizer", "name"),
    [
        (quantizer, name)
        for quantizer, attributes in SOUND.items()
        for name in claimed_tests(ActivationQuantizerSuite, attributes.get("capabilities", ()))
    ],
)
def test_a_sound_quantizer_is_spared(
    name: str, quantizer: type[SmallActivations], counted: Any
) -> None:
    counted("sound", AREA)
    try:
        run_property(
            ActivationQuantizerSuite, name, SOUND[quantizer], make_activation_quantizer=quantizer
        )
    except LookupError as nothing:
        pytest.skip(str(nothing))


def test_every_property_has_mutants_of_its_own() -> None:
    assert {name for name, faults in BROKEN.items() if len(faults) > 1} == {
        *suite_tests(ActivationQuantizerSuite)
    }
