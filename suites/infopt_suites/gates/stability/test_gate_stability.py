"""Stability: does the candidate compute after a session what it computed before it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun

if TYPE_CHECKING:
    from .measure import StabilityMeasure

pytestmark = pytest.mark.infopt_gate("stability")


def test_stability(infopt_gate: GateRun[StabilityMeasure]) -> None:
    """One pass, made when the candidate was new, has the same bits when it is repeated, and after
    all that the other gates asked of the candidate.

    Repetitions that differ from each other are drawn at random: dropout left on, a race. A pass
    that differs from the session's first one alone has changed since: a state that grows, a cache
    that rots. The note names the module where the passes part.
    """
    measure = infopt_gate.measure
    infopt_gate.collect([0], lambda _: measure.reading(), planned=1)
    infopt_gate.show_samples("passes")
    infopt_gate.conclude()
