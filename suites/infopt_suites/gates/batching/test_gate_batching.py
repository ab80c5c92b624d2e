"""Batching: does it leave results alone, what does it gain, and what does its window cost?

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun, Judgement

from ..plans import CachesPlan, EquivalencePlan
from .gate import INVARIANCE, THROUGHPUT, WINDOW, BatchingPlan

if TYPE_CHECKING:
    from .measure import BatchingMeasure

pytestmark = pytest.mark.infopt_gate("batching")


def test_batching(infopt_gate: GateRun[BatchingMeasure]) -> None:
    """A prompt's row in a batch of any size is what the prompt gives alone, but for rounding.

    Where it is not, rows see each other: padding, a scale or an outlier taken over the batch. Gain
    and cost in time are judged where they have a budget; the reports have the strategies of
    batching side by side, simulated with this model's costs and measured.
    """
    measure = infopt_gate.measure
    prompts = infopt_gate.plan(CachesPlan).prompts_of(infopt_gate.plan(EquivalencePlan))
    judgements = infopt_gate.collect(
        range(prompts), measure.invariance, planned=prompts, metrics=INVARIANCE
    )
    infopt_gate.show_samples("errors", "mismatches", "left_out")
    distrust = infopt_gate.timing_distrust
    if distrust:
        infopt_gate.notes.append(f"nothing was timed: {distrust}")
    elif not infopt_gate.failed:
        judgements = [*judgements, *timed(infopt_gate)]
        infopt_gate.show(measure.strategies_table())
    infopt_gate.judgements = judgements
    infopt_gate.conclude()


def timed(gate: GateRun[BatchingMeasure]) -> list[Judgement]:
    """Throughput in pairs drawn by a coin, one where nothing limits it; and the window's cost."""
    pairs = gate.plan(BatchingPlan).max_pairs if THROUGHPUT.name in gate.budgets else 1
    measure = gate.measure
    throughput = gate.collect(
        range(pairs),
        lambda index: measure.throughput(index, gate.coin(index)),
        planned=pairs,
        seconds=gate.seconds,
        phase="pairs",
        metrics=[THROUGHPUT],
    )
    window = gate.collect(
        [0], lambda _: measure.window(), planned=1, phase="window", metrics=[WINDOW]
    )
    return [*throughput, *window]
