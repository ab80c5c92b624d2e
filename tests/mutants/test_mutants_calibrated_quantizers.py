"""CalibratedQuantizerSuite kills faulty calibration by the property named, spares the sound."""

from __future__ import annotations

from typing import Any

import pytest
from calibrated_quantizers import (
    AREA,
    AWQ,
    CALIBRATED_MUTANTS,
    GPTQ,
    CalibratedMutant,
    SmallAwq,
    SmallGptq,
    SmallGptqInFloat32,
    SmallQuantizer,
)
from infopt_suites import CalibratedQuantizerSuite
from infopt_suites.base import suite_tests
from properties import needs, run_property


@pytest.mark.parametrize("mutant", CALIBRATED_MUTANTS, ids=lambda m: m.fault.__name__)
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
    ("quantizer", "attributes"), [(SmallGptq, GPTQ), (SmallGptqInFloat32, GPTQ), (SmallAwq, AWQ)]
)
@pytest.mark.parametrize("name", suite_tests(CalibratedQuantizerSuite))
def test_a_sound_calibrated_quantizer_is_spared(
    name: str, quantizer: type[SmallQuantizer], attributes: dict[str, Any], counted: Any
) -> None:
    if not needs(CalibratedQuantizerSuite, name) <= attributes["capabilities"]:
        pytest.skip("not claimed by this one")
    counted("sound", AREA)
    run_property(CalibratedQuantizerSuite, name, attributes, make_calibrated_quantizer=quantizer)
