"""BatcherSuite kills faulty batchers by the property named for each, and spares sound ones."""

from __future__ import annotations

from typing import Any

import pytest
from batcher_faults import MUTANTS, BatcherMutant
from batchers import AREA, SOUND
from declared_batchers import DECLARED
from infopt_suites.batching import BatcherSuite
from properties import claimed_tests, declared, run_property


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_batcher_is_killed(mutant: BatcherMutant, counted: Any) -> None:
    counted("mutant", AREA)
    attributes = declared(BatcherSuite, mutant.fault)
    with pytest.raises(AssertionError):
        run_property(BatcherSuite, mutant.broken, attributes, make_batcher=mutant.fault)


@pytest.mark.parametrize(
    ("batcher", "name"),
    [
        (made, name)
        for made in [*SOUND, *DECLARED]
        for name in claimed_tests(BatcherSuite, made.capabilities)
    ],
)
def test_a_sound_batcher_is_spared(batcher: Any, name: str, counted: Any) -> None:
    counted("sound", AREA)
    attributes = declared(BatcherSuite, batcher)
    run_property(BatcherSuite, name, attributes, make_batcher=batcher)
