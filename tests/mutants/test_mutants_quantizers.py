"""QuantizerSuite kills faulty quantizers, each by its property, and spares the sound one."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites.base import suite_tests
from infopt_suites.quantization import QuantizerSuite
from properties import run_property
from quantizers import (
    AREA,
    CAPABILITIES,
    QUANTIZER_MUTANTS,
    SCHEMES,
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
