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
    sample = infopt_gate.measure.modules()
    if reason := sample.details["undecided"]:
        infopt_gate.details |= sample.details
        infopt_gate.note(sample.details["notes"])
        infopt_gate.not_run(reason)
        return
    infopt_gate.collect([sample], lambda known: known, planned=1)
    infopt_gate.details |= sample.details
    infopt_gate.conclude()
