"""Margins: are the release's limits above what this machine shows when nothing was changed?

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun, MeasuredTable, Sample

from .floors import of_outputs, of_times
from .gate import BELOW, MarginsPlan

if TYPE_CHECKING:
    from .measure import MarginsMeasure

pytestmark = pytest.mark.infopt_gate("margins")


def test_margins(infopt_gate: GateRun[MarginsMeasure]) -> None:
    """The reference is compared with itself: loaded anew, with other threads, in a batch, in the
    candidates' dtypes. What that changes is the floor, which is kept for later runs.

    A limit of the release below it is refused: PASS and FAIL there would be about the machine.
    """
    gate = infopt_gate
    noise = [*of_outputs(outputs(gate)), *of_times(times(gate))]
    floors = gate.noise.keep(gate.candidate, noise)
    rows = tuple(
        (floor.metric, floor.dtype or "any", floor.margin, floor.cause, floor.proposed)
        for floor in floors
    )
    columns = ("metric", "dtype", "least margin", "largest where changed", "proposed limit")
    gate.show(MeasuredTable("noise floor", columns, rows).to_json())
    below = gate.noise.below(gate.release, gate.candidate)
    gate.note(below)
    gate.judgements = gate.collect(
        [0],
        lambda _: Sample("limits", 1, {BELOW.name: float(len(below))}),
        planned=1,
        phase=f"limits after {len(gate.samples)}",
    )
    if below:
        gate.judgements = []
        gate.fault = f"limits below the noise floor: {'; '.join(below)}"
    gate.conclude()


def outputs(gate: GateRun[MarginsMeasure]) -> dict[str, list[Sample]]:
    """Documents, by what was changed."""
    measure, plan = gate.measure, gate.plan(MarginsPlan)
    names = measure.documents(plan.documents)
    found = {}
    dtypes = sorted({c.source.dtype for c in gate.release.candidates} - {"auto"})
    for arm in measure.arms(dtypes):
        before = len(gate.samples)
        gate.collect(
            names,
            lambda name, arm=arm: measure.document(arm, name),  # type: ignore[misc]
            planned=len(names),
            phase=f"outputs, {arm}",
            metrics=[],
        )
        found[arm] = gate.samples[before:]
    return found


def times(gate: GateRun[MarginsMeasure]) -> list[list[Sample]]:
    """Pairs of requests, by instance; none where this process or the engine cannot time."""
    plan = gate.plan(MarginsPlan)
    if not gate.measure.times() or gate.timing_distrust:
        return []
    found = []
    for instance in range(plan.instances):
        if instance:
            gate.reload_models()
        measure, before = gate.measure, len(gate.samples)
        measure.warm_up()
        gate.collect(
            range(plan.pairs),
            lambda index: measure.pair(index, gate.coin(index)),  # noqa: B023  called at once
            planned=plan.pairs,
            phase=f"times, instance {instance}",
            metrics=[],
        )
        found.append(gate.samples[before:])
    return found
