"""ModelQuantizerSuite kills faulty quantizers by the property named for each; the sound live."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites import ModelQuantizerSuite
from model_quantizers import AREA, MODEL_MUTANTS, SOUND, ModelMutant, SmallModelQuantizer
from properties import claimed_tests, run_property


@pytest.mark.parametrize("mutant", MODEL_MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_quantizer_is_killed(mutant: ModelMutant, counted: Any) -> None:
    counted("mutant", AREA)
    with pytest.raises(AssertionError):
        run_property(
            ModelQuantizerSuite,
            mutant.broken,
            mutant.attributes,
            make_model_quantizer=mutant.fault,
        )


@pytest.mark.parametrize(
    ("quantizer", "name"),
    [
        (quantizer, name)
        for quantizer, attributes in SOUND.items()
        for name in claimed_tests(ModelQuantizerSuite, attributes["capabilities"])
    ],
)
def test_a_sound_quantizer_is_spared(
    name: str, quantizer: type[SmallModelQuantizer], counted: Any
) -> None:
    counted("sound", AREA)
    run_property(ModelQuantizerSuite, name, SOUND[quantizer], make_model_quantizer=quantizer)
