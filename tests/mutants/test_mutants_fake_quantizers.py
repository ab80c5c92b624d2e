"""FakeQuantSuite kills faulty fake quantizers by the property named, and spares the sound one."""

from __future__ import annotations

from typing import Any

import pytest
from fake_quantizers import (
    AREA,
    ATTRIBUTES,
    FAKE_QUANTIZER_MUTANTS,
    FakeQuantizerMutant,
    SmallFakeQuantizer,
)
from infopt_suites import FakeQuantSuite
from infopt_suites.base import suite_tests
from properties import run_property


@pytest.mark.parametrize("mutant", FAKE_QUANTIZER_MUTANTS, ids=lambda m: m.fault.__name__)
def test_a_faulty_fake_quantizer_is_killed(mutant: FakeQuantizerMutant, counted: Any) -> None:
    counted("mutant", AREA)
    with pytest.raises((AssertionError, RuntimeError)):
        run_property(FakeQuantSuite, mutant.broken, ATTRIBUTES, make_fake_quantizer=mutant.fault)


@pytest.mark.parametrize("name", suite_tests(FakeQuantSuite))
def test_a_sound_fake_quantizer_is_spared(name: str, counted: Any) -> None:
    counted("sound", AREA)
    run_property(FakeQuantSuite, name, ATTRIBUTES, make_fake_quantizer=SmallFakeQuantizer)
