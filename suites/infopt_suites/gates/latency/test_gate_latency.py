"""Latency: is the candidate at most so much slower than the reference?

Both models live in one process; each pair of requests is timed in an order drawn by a fair coin,
and the verdict is a sequential sign test on the paired log-ratios.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun, Judgement, Verdict

from ..timing import METRICS, time_pairs
from .tables import latency_tables

if TYPE_CHECKING:
    from .measure import LatencyMeasure

pytestmark = pytest.mark.infopt_gate("latency")


def test_latency(infopt_gate: GateRun[LatencyMeasure]) -> None:
    """Time to first token, per output token and end to end stay within their budgets.

    A FAIL has to be confirmed by models loaded anew, on the metrics that failed: where they happen
    to lie in memory costs or saves a few percent by itself.
    """
    if infopt_gate.timing_distrust:
        infopt_gate.abstain(infopt_gate.timing_distrust)
        return
    seconds = infopt_gate.seconds
    first = time_pairs(infopt_gate, "main", seconds)
    failed = {judgement.metric for judgement in first if judgement.verdict is Verdict.FAIL}
    if failed:
        infopt_gate.reload_models()
        doubted = [metric for metric in METRICS if metric.name in failed]
        second = time_pairs(infopt_gate, "confirmation", seconds, doubted, every_metric=True)
        infopt_gate.judgements = confirmed(first, second)
    for table in latency_tables(infopt_gate.samples):
        infopt_gate.show(table.to_json())
    if roofline := infopt_gate.measure.roofline():
        infopt_gate.show(roofline)
    infopt_gate.conclude()


def confirmed(first: Sequence[Judgement], second: Sequence[Judgement]) -> list[Judgement]:
    """The first judgements, where a FAIL stands only if the second, independent ones fail too."""
    again = {judgement.metric: judgement for judgement in second}
    return [_confirmed(j, again[j.metric]) if j.verdict is Verdict.FAIL else j for j in first]


def _confirmed(first: Judgement, second: Judgement) -> Judgement:
    if second.verdict is Verdict.FAIL:
        return replace(first, reason="confirmed by models loaded anew")
    return replace(
        first,
        verdict=Verdict.INCONCLUSIVE,
        reason=f"FAIL not confirmed by models loaded anew (there {second.verdict}, {second.value})",
    )
