"""SchedulerSuite kills faulty schedulers by the property named for each, and spares sound ones."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites.base import suite_tests
from infopt_suites.batching import SchedulerSuite
from properties import needs, run_property
from schedulers import AREA, MUTANTS, SOUND, SchedulerMutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_scheduler_is_killed(mutant: SchedulerMutant, counted: Any) -> None:
    counted("mutant", AREA)
    attributes = {"capabilities": mutant.fault.capabilities}
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_property(SchedulerSuite, mutant.broken, attributes, make_scheduler=mutant.fault)


@pytest.mark.parametrize(
    ("scheduler", "name"),
    [
        (scheduler, name)
        for scheduler in SOUND
        for name in suite_tests(SchedulerSuite)
        if needs(SchedulerSuite, name) <= scheduler.capabilities
    ],
)
def test_a_sound_scheduler_is_spared(scheduler: Any, name: str, counted: Any) -> None:
    counted("sound", AREA)
    attributes = {"capabilities": scheduler.capabilities}
    run_property(SchedulerSuite, name, attributes, make_scheduler=scheduler)
