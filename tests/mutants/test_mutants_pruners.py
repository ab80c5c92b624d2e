"""PruningSuite kills faulty pruners by the property named for each, and spares the sound ones."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites.pruning import PruningSuite
from properties import claimed_tests, run_property
from pruners import AREA, PRUNER_MUTANTS, SOUND, Pruner, PrunerMutant


@pytest.mark.parametrize("mutant", PRUNER_MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_pruner_is_killed(mutant: PrunerMutant, counted: Any) -> None:
    counted("mutant", AREA)
    with pytest.raises((AssertionError, RuntimeError)):
        run_property(PruningSuite, mutant.broken, mutant.attributes, make_pruner=mutant.fault)


@pytest.mark.parametrize(
    ("pruner", "attributes", "name"),
    [
        (pruner, attributes, name)
        for pruner, attributes in SOUND.items()
        for name in claimed_tests(PruningSuite, attributes["capabilities"])
    ],
)
def test_a_sound_pruner_is_spared(
    name: str, pruner: type[Pruner], attributes: dict[str, Any], counted: Any
) -> None:
    counted("sound", AREA)
    run_property(PruningSuite, name, attributes, make_pruner=pruner)
