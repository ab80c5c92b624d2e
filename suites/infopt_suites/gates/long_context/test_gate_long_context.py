"""Long contexts: does the candidate keep to the reference, and to itself, as texts get longer?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun

from .gate import NEEDLES, SWEPT, LongContextPlan

if TYPE_CHECKING:
    from .measure import LongContextMeasure

pytestmark = pytest.mark.infopt_gate("long-context")


def test_long_context(infopt_gate: GateRun[LongContextMeasure]) -> None:
    """At every length, all positions keep the KL and the last ones the cache's error within limits,
    and no pass key is lost that the reference finds.

    KL that grows with length, where short texts pass the quality gate, points to positions: a rope
    that is scaled otherwise, a window, a cache whose own errors add up.
    """
    measure, texts = infopt_gate.measure, infopt_gate.measure.count()
    judgements = infopt_gate.collect(range(texts), measure.text, planned=texts, metrics=SWEPT)
    for table in measure.tables(infopt_gate.samples):
        infopt_gate.show(table)
    if infopt_gate.plan(LongContextPlan).needles and not infopt_gate.failed:
        judgements += infopt_gate.collect(
            [measure.needles],
            lambda measured: measured(),
            planned=1,
            phase="needles",
            metrics=[NEEDLES],
        )
        infopt_gate.judgements = judgements
    infopt_gate.show_samples()
    infopt_gate.conclude()
