"""QuantizedLinearSuite kills faulty layers by the property named for each, and spares the sound."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites import QuantizedLinearSuite
from properties import claimed_tests, run_property
from quantized_linears import AREA, LINEAR_MUTANTS, SOUND, LinearMutant, SmallLinear


@pytest.mark.parametrize("mutant", LINEAR_MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_layer_is_killed(mutant: LinearMutant, counted: Any) -> None:
    counted("mutant", AREA)
    with pytest.raises(AssertionError):
        run_property(
            QuantizedLinearSuite,
            mutant.broken,
            mutant.attributes,
            make_quantized_linear=mutant.fault,
        )


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (layer, name)
        for layer, attributes in SOUND.items()
        for name in claimed_tests(QuantizedLinearSuite, attributes.get("capabilities", ()))
    ],
)
def test_a_sound_layer_is_spared(name: str, layer: type[SmallLinear], counted: Any) -> None:
    counted("sound", AREA)
    run_property(QuantizedLinearSuite, name, SOUND[layer], make_quantized_linear=layer)
