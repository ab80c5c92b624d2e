"""MemoryMeterSuite kills faulty meters by the property named for each, and spares sound ones."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites import MemoryMeterSuite
from memory_meters import AREA, MUTANTS, SOUND, MemoryMutant, SmallMeter
from properties import claimed_tests, declared, run_property


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_meter_is_killed(mutant: MemoryMutant, counted: Any) -> None:
    counted("mutant", AREA)
    attributes = declared(MemoryMeterSuite, mutant.fault)
    with pytest.raises(AssertionError):
        run_property(MemoryMeterSuite, mutant.broken, attributes, make_memory_meter=mutant.fault)


@pytest.mark.parametrize(
    ("meter", "name"),
    [
        (meter, name)
        for meter in SOUND
        for name in claimed_tests(MemoryMeterSuite, meter.capabilities)
    ],
)
def test_a_sound_meter_is_spared(meter: type[SmallMeter], name: str, counted: Any) -> None:
    counted("sound", AREA)
    run_property(MemoryMeterSuite, name, declared(MemoryMeterSuite, meter), make_memory_meter=meter)
