"""DistillationLossSuite kills faulty losses by the property named for each; sound ones pass."""

from __future__ import annotations

from typing import Any

import pytest
from distillation_losses import AREA, LOSS_MUTANTS, SOUND, LossMutant, SmallLoss
from infopt_suites.distillation import DistillationLossSuite
from properties import claimed_tests, run_property


@pytest.mark.parametrize("mutant", LOSS_MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_loss_is_killed(mutant: LossMutant, counted: Any) -> None:
    counted("mutant", AREA)
    with pytest.raises((AssertionError, RuntimeError)):
        run_property(
            DistillationLossSuite,
            mutant.broken,
            mutant.attributes,
            make_distillation_loss=mutant.fault,
        )


@pytest.mark.parametrize(
    ("loss", "attributes", "name"),
    [
        pytest.param(loss, attributes, name, id=f"{which}-{name}")
        for which, (loss, attributes) in SOUND.items()
        for name in claimed_tests(DistillationLossSuite, attributes["capabilities"])
    ],
)
def test_a_sound_loss_is_spared(
    name: str, loss: type[SmallLoss], attributes: dict[str, Any], counted: Any
) -> None:
    counted("sound", AREA)
    run_property(DistillationLossSuite, name, attributes, make_distillation_loss=loss)
