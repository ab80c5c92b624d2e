"""SmoothingSuite kills faulty smoothers by the property named for each, and spares the sound."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites import SmoothingSuite
from properties import claimed_tests, run_property
from smoothers import (
    AREA,
    MAXIMUM,
    MEAN,
    SMOOTHER_MUTANTS,
    SmallMeanSmoother,
    SmallSmoother,
    SmootherMutant,
)


@pytest.mark.parametrize("mutant", SMOOTHER_MUTANTS, ids=lambda m: m.fault.__name__)
def test_a_faulty_smoother_is_killed(mutant: SmootherMutant, counted: Any) -> None:
    counted("mutant", AREA)
    with pytest.raises(AssertionError):
        run_property(SmoothingSuite, mutant.broken, mutant.attributes, make_smoother=mutant.fault)


@pytest.mark.parametrize(
    ("smoother", "attributes", "name"),
    [
        (smoother, attributes, name)
        for smoother, attributes in [(SmallSmoother, MAXIMUM), (SmallMeanSmoother, MEAN)]
        for name in claimed_tests(SmoothingSuite, attributes["capabilities"])
    ],
)
def test_a_sound_smoother_is_spared(
    name: str, smoother: type[SmallSmoother], attributes: dict[str, Any], counted: Any
) -> None:
    counted("sound", AREA)
    run_property(SmoothingSuite, name, attributes, make_smoother=smoother)
