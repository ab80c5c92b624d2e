"""Speculative decoding: does a draft change tokens, how many are accepted, what does it save?

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun, Judgement, Sample, Verdict

from ..byte_limits import against_reference
from .gate import ACCEPTANCE, BYTES, MISMATCHES, SPEED_UP, SpeculativePlan

if TYPE_CHECKING:
    from .measure import SpeculativeMeasure

pytestmark = pytest.mark.infopt_gate("speculative")


def test_speculative(infopt_gate: GateRun[SpeculativeMeasure]) -> None:
    """Greedy tokens with the candidate's draft are those without, but for near-ties.

    What serves the candidate decodes: transformers in process, or the candidate's server, which is
    asked where the release names one. A run in which nothing was drafted shows nothing, and does
    not PASS.
    """
    gate = infopt_gate
    judgements = in_process(gate) if gate.candidate.server is None else on_the_server(gate)
    gate.judgements = [doubted(judgement, without_drafts(gate.samples)) for judgement in judgements]
    gate.conclude()


def in_process(gate: GateRun[SpeculativeMeasure]) -> list[Judgement]:
    measure, count = gate.measure, gate.plan(SpeculativePlan).prompts
    if distrust := gate.timing_distrust:
        gate.notes.append(f"nothing was timed: {distrust}")
    measure.warm_up()

    def prompt(index: int) -> Sample:
        sample = measure.prompt(index, gate.coin(index))
        return untimed(sample) if distrust else sample

    judgements = gate.collect(
        range(count), prompt, planned=count, metrics=[MISMATCHES, ACCEPTANCE, SPEED_UP]
    )
    if distrust:
        judgements = [
            replace(each, reason=distrust) if each.metric == SPEED_UP.name else each
            for each in judgements
        ]
    for table in measure.tables(gate.samples, not distrust):
        gate.show(table)
    reference = {BYTES.name: measure.reference_bytes()}
    added = gate.collect(
        [0],
        lambda _: measure.added_bytes(),
        planned=1,
        phase="bytes",
        metrics=[BYTES],
        budgets=against_reference(
            {name: budget for name, budget in gate.budgets.items() if name == BYTES.name}, reference
        ),
    )
    return [*judgements, *added]


def on_the_server(gate: GateRun[SpeculativeMeasure]) -> list[Judgement]:
    measure, count = gate.measure, gate.plan(SpeculativePlan).prompts
    judgements = gate.collect(range(count), measure.served_prompt, planned=count)
    drafted, accepted = (
        sum(sample.details[name] or 0 for sample in gate.samples)
        for name in ("drafted", "accepted")
    )
    gate.notes.append(f"the server reports {drafted} drafted tokens, {accepted} of them accepted")
    return judgements


def untimed(sample: Sample) -> Sample:
    values = {name: value for name, value in sample.values.items() if name != SPEED_UP.name}
    return replace(sample, values=values)


def without_drafts(samples: list[Sample]) -> str:
    """Why nothing is known to have been drafted; "" where something was."""
    counts = [sample.details["drafted"] for sample in samples if "drafted" in sample.details]
    if any(counts):
        return ""
    if None in counts:
        return "the server does not report drafted tokens: nothing shows that there were any"
    return "no token was drafted: nothing shows what a draft would change"


def doubted(judgement: Judgement, why: str) -> Judgement:
    """The judgement, which does not PASS where there is a doubt."""
    if not why or judgement.verdict is not Verdict.PASS:
        return judgement
    return replace(judgement, verdict=Verdict.INCONCLUSIVE, reason=why)
