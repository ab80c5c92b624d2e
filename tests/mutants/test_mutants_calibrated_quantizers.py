"""CalibratedQuantizerSuite kills faulty calibration by the property named, spares the sound."""

from __future__ import annotations

from typing import Any

import pytest
from calibrated_quantizers import (
    AREA,
    CALIBRATED_MUTANTS,
    SOUND,
    CalibratedMutant,
    SmallQuantizer,
)
from infopt_suites import CalibratedQuantizerSuite
from properties import claimed_tests, run_property


@pytest.mark.parametrize(
    "mutant", CALIBRATED_MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}"
)
def test_a_faulty_calibrated_quantizer_is_killed(mutant: CalibratedMutant, counted: Any) -> None:
    counted("mutant", AREA)
    with pytest.raises((AssertionError, RuntimeError)):
        run_property(
            CalibratedQuantizerSuite,
            mutant.broken,
            mutant.attributes,
            make_calibrated_quantizer=mutant.fault,
        )


@pytest.mark.parametrize(
    ("quantizer", "attributes", "name"),
    [
        (quantizer, attributes, name)
        for quantizer, attributes in SOUND
        for name in claimed_tests(CalibratedQuantizerSuite, attributes["capabilities"])
    ],
)
def test_a_sound_calibrated_quantizer_is_spared(
    name: str, quantizer: type[SmallQuantizer], attributes: dict[str, Any], counted: Any
) -> None:
    counted("sound", AREA)
    run_property(CalibratedQuantizerSuite, name, attributes, make_calibrated_quantizer=quantizer)
