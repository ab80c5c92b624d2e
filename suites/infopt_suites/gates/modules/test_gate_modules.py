"""Modules: does each of the candidate's do the work of the reference's, and which does not?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun

if TYPE_CHECKING:
    from .measure import ModulesMeasure

pytestmark = pytest.mark.infopt_gate("modules")


def test_modules(infopt_gate: GateRun[ModulesMeasure]) -> None:
    """No module errs more than its siblings, its format and its dtype explain; no constant differs.

    The notes name the gravest ones, with kind and layer; ``details.accused`` has all, and
    ``details.excused`` those that other modules make up for.
    """
    measure = infopt_gate.measure
    infopt_gate.collect([0], lambda _: measure.modules(), planned=1)
    (sample,) = infopt_gate.samples
    infopt_gate.details |= sample.details
    if reason := sample.details["undecided"]:
        infopt_gate.not_run(reason)
    else:
        infopt_gate.conclude()
