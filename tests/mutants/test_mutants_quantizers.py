"""QuantizerSuite kills faulty quantizers, each by its property, and spares the sound one."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites.base import suite_tests
from infopt_suites.quantization import QuantizerSuite
from properties import claimed_tests, run_property
from quantizers import (
    AREA,
    CAPABILITIES,
    QUANTIZER_MUTANTS,
    SCHEMES,
    SOUND,
    QuantizerMutant,
    SmallQuantizer,
)


@pytest.mark.parametrize(
    "mutant", QUANTIZER_MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}"
)
def test_a_faulty_quantizer_is_killed(mutant: QuantizerMutant, counted: Any) -> None:
    counted("mutant", AREA)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_property(QuantizerSuite, mutant.broken, mutant.attributes, make_quantizer=mutant.fault)


@pytest.mark.parametrize(
    "name", [name for name in suite_tests(QuantizerSuite) if "stay_visible" not in name]
)
def test_the_sound_quantizer_is_spared(name: str, counted: Any) -> None:
    counted("sound", AREA)
    attributes = {"capabilities": CAPABILITIES, "schemes": SCHEMES}
    run_property(QuantizerSuite, name, attributes, make_quantizer=SmallQuantizer)


@pytest.mark.parametrize("sound", SOUND, ids=lambda sound: sound.__name__)
def test_sound_quantizers_of_other_kinds_are_spared(
    sound: type[SmallQuantizer], counted: Any
) -> None:
    counted("sound", AREA)
    attributes = {"examples": 12, "capabilities": (), **SOUND[sound]}
    tried = set()
    for name in claimed_tests(QuantizerSuite, attributes["capabilities"]):
        try:
            run_property(QuantizerSuite, name, attributes, make_quantizer=sound)
        except LookupError:  # a kind of schemes, or of grids, that this one has not
            continue
        tried.add(name)
    assert len(tried) >= 10
