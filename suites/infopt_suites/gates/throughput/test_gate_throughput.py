"""Throughput: does the candidate serve as many tokens a second, and keep its objective?

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun, MeasuredTable

from .gate import ATTAINMENT, THROUGHPUT, ThroughputPlan

if TYPE_CHECKING:
    from .measure import ThroughputMeasure

pytestmark = pytest.mark.infopt_gate("throughput")


def test_throughput(infopt_gate: GateRun[ThroughputMeasure]) -> None:
    """Pairs of loads, each in an order drawn by a coin; then open loads, where a rate is named.

    The share of requests that keep the objective is a mean over loads: requests of one load wait
    for each other, loads do not.
    """
    plan = infopt_gate.plan(ThroughputPlan)
    if infopt_gate.timing_distrust:
        infopt_gate.abstain(infopt_gate.timing_distrust)
        return
    measure = infopt_gate.measure
    measure.warm_up()
    pairs = plan.max_pairs if THROUGHPUT.name in infopt_gate.budgets else 1
    judgements = infopt_gate.collect(
        range(pairs),
        lambda index: measure.pair(index, infopt_gate.coin(index)),
        planned=pairs,
        phase="pairs",
        metrics=[THROUGHPUT],
    )
    infopt_gate.show(table(infopt_gate, plan.concurrency).to_json())
    if plan.rate and not infopt_gate.failed:
        loads = plan.max_pairs if ATTAINMENT.name in infopt_gate.budgets else 1
        judgements = [
            *judgements,
            *infopt_gate.collect(
                range(loads),
                measure.objective,
                planned=loads,
                seconds=infopt_gate.seconds,
                phase="objective",
                metrics=[ATTAINMENT],
            ),
        ]
        infopt_gate.judgements = judgements
    infopt_gate.conclude()


def table(gate: GateRun[ThroughputMeasure], concurrency: tuple[int, ...]) -> MeasuredTable:
    """Tokens a second of both models by concurrency, medians over the pairs."""
    rates = [sample.details["tokens_per_second"] for sample in gate.samples]
    rows = []
    for place, clients in enumerate(concurrency):
        both = [
            statistics.median(each[name][place] for each in rates)
            for name in ("reference", "candidate")
        ]
        rows.append((clients, *both, both[1] / both[0]))
    columns = ("clients", "reference (tokens/s)", "candidate (tokens/s)", "ratio")
    return MeasuredTable("Throughput by concurrency", columns, tuple(rows))
