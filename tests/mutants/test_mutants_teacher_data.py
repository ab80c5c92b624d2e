"""TeacherDataSuite kills faulty generators by the property named for each, and spares the sound."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites.distillation import TeacherDataSuite, TeacherError
from properties import claimed_tests, run_property
from teacher_data import AREA, GENERATOR_MUTANTS, SOUND, GeneratorMutant, SmallGenerator


@pytest.mark.parametrize(
    "mutant", GENERATOR_MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}"
)
def test_a_faulty_generator_is_killed(mutant: GeneratorMutant, counted: Any) -> None:
    counted("mutant", AREA)
    with pytest.raises((AssertionError, RuntimeError, ValueError, TeacherError)):
        run_property(
            TeacherDataSuite,
            mutant.broken,
            {"capabilities": TeacherDataSuite.offers},
            make_teacher_data_generator=mutant.fault,
        )


@pytest.mark.parametrize(
    ("generator", "attributes", "name"),
    [
        (generator, attributes, name)
        for generator, attributes in SOUND.items()
        for name in claimed_tests(TeacherDataSuite, attributes["capabilities"])
    ],
)
def test_a_sound_generator_is_spared(
    name: str, generator: type[SmallGenerator], attributes: dict[str, Any], counted: Any
) -> None:
    counted("sound", AREA)
    run_property(TeacherDataSuite, name, attributes, make_teacher_data_generator=generator)
