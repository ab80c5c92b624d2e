"""Long contexts: does the candidate keep to the reference, and to itself, as texts get longer?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun

from .gate import LongContextPlan

if TYPE_CHECKING:
    from .measure import LongContextMeasure

pytestmark = pytest.mark.infopt_gate("long-context")


def test_long_context(infopt_gate: GateRun[LongContextMeasure]) -> None:
    """At every length of the sweep, the last positions keep KL and the cache's error within limits.

    KL that grows with length, where short texts pass the quality gate, points to positions: a rope
    that is scaled otherwise, a window, a cache whose own errors add up.
    """
    measure, plan = infopt_gate.measure, infopt_gate.plan(LongContextPlan)
    texts = len(plan.lengths) * plan.texts
    infopt_gate.collect(range(texts), measure.text, planned=texts)
    infopt_gate.show(measure.table(infopt_gate.samples))
    infopt_gate.conclude()
