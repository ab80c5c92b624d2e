"""ContinuousBatchingSuite kills faulty batchers, each by its property, and spares sound ones."""

from __future__ import annotations

from typing import Any

import pytest
from continuous_batchers import AREA, MUTANTS, SOUND, ContinuousMutant
from infopt_suites.base import suite_tests
from infopt_suites.batching import ContinuousBatchingSuite
from properties import declared, needs, run_property


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_continuous_batcher_is_killed(mutant: ContinuousMutant, counted: Any) -> None:
    counted("mutant", AREA)
    attributes = declared(ContinuousBatchingSuite, mutant.fault)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_property(
            ContinuousBatchingSuite,
            mutant.broken,
            attributes,
            make_continuous_batcher=mutant.fault,
        )


@pytest.mark.parametrize(
    ("batcher", "name"),
    [
        (batcher, name)
        for batcher in SOUND
        for name in suite_tests(ContinuousBatchingSuite)
        if needs(ContinuousBatchingSuite, name) <= batcher.capabilities
    ],
)
def test_a_sound_continuous_batcher_is_spared(batcher: Any, name: str, counted: Any) -> None:
    counted("sound", AREA)
    attributes = declared(ContinuousBatchingSuite, batcher)
    run_property(ContinuousBatchingSuite, name, attributes, make_continuous_batcher=batcher)
