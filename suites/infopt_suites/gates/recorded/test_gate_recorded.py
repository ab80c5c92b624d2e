"""Recorded: do the result files of other tools show that the candidate keeps its limits?

Answers pair by item. Times do not pair: whole sessions are compared, block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun, Judgement, MeasuredTable, Verdict

from ..several_tasks import without_guesses, worst_of
from .gate import LOSS, OF_SESSIONS

if TYPE_CHECKING:
    from .measure import Found, RecordedMeasure

pytestmark = pytest.mark.infopt_gate("recorded")

UNPAIRED = (
    "unpaired: sessions differ by more than their requests tell, and nothing here says by how "
    "much; alternate sessions of both, in an order drawn by a coin, and say so: blocks = true in "
    "[recorded]"
)


def test_recorded(infopt_gate: GateRun[RecordedMeasure]) -> None:
    """Sessions first, then each task, until one metric has failed.

    Files that are not comparable are no verdict: other loads, failed requests, other questions.
    """
    gate = infopt_gate
    found = gate.measure.found()
    judgements: list[Judgement] = []
    if any(found.sessions.values()):
        judgements += of_sessions(gate, found)
    if found.tasks and not gate.failed:
        judgements += of_tasks(gate, found)
    gate.judgements = [*judgements, *absent(gate, judgements)]
    gate.conclude()


def of_sessions(gate: GateRun[RecordedMeasure], found: Found) -> list[Judgement]:
    """Blocks are judged; sessions without them are estimated, and judged neither way."""
    told = " and ".join(f"{count} of the {side}" for side, count in found.sessions.items())
    gate.note([f"unpaired: times are those of whole sessions, {told}"])
    if found.blocks:
        if not found.order_shown:
            gate.note(["that sessions alternated is the release's word: no file tells its time"])
        return gate.collect(
            range(found.blocks),
            gate.measure.block,
            planned=found.blocks,
            phase=f"blocks {found.digest[:16]}",
            metrics=OF_SESSIONS,
        )
    estimates = gate.collect(
        range(1 if all(found.sessions.values()) else 0),
        lambda _: gate.measure.sessions(),
        planned=1,
        phase=f"sessions {found.digest[:16]}",
        metrics=OF_SESSIONS,
        budgets={},
    )
    return [_held_back(gate, judgement) for judgement in estimates]


def _held_back(gate: GateRun[RecordedMeasure], judgement: Judgement) -> Judgement:
    budget = gate.budgets.get(judgement.metric)
    if budget is None:
        return judgement
    return replace(judgement, verdict=Verdict.INCONCLUSIVE, budget=budget.limit, reason=UNPAIRED)


def of_tasks(gate: GateRun[RecordedMeasure], found: Found) -> list[Judgement]:
    """Each task has its part of the error rate of FAIL; the worst decides."""
    judged: list[tuple[str, list[Judgement]]] = []
    alpha = gate.release.statistics.alpha_pass
    for task, items in found.tasks.items():
        rows = gate.collect(
            range(items),
            partial(gate.measure.item, task),
            planned=items,
            phase=f"{task} {found.digest[:16]}",
            metrics=[LOSS],
            error_share=1 / len(found.tasks),
        )
        judged.append((task, [without_guesses(row, 0.0, alpha, kept=False) for row in rows]))
        if gate.failed:
            break
    gate.show(table(judged).to_json())
    return worst_of(judged, ())


def table(judged: list[tuple[str, list[Judgement]]]) -> MeasuredTable:
    """Both accuracies of each task, and what flipped."""
    columns = ("task", "answers", "reference", "candidate", "lost", "gained", "verdict")
    told = ("reference_accuracy", "candidate_accuracy", "lost", "gained")
    return MeasuredTable(
        "recorded tasks",
        columns,
        tuple(
            (task, row.n, *(row.details[name] for name in told), str(row.verdict or ""))
            for task, rows in judged
            for row in rows
        ),
    )


def absent(gate: GateRun[RecordedMeasure], judgements: list[Judgement]) -> Iterator[Judgement]:
    """Written limits of what no file tells: they are not kept silently."""
    known = {judgement.metric for judgement in judgements}
    for name, budget in gate.budgets.items():
        if name not in known and not budget.is_default and not gate.failed:
            reason = "the files tell nothing of it"
            yield Judgement(name, None, 0, 0, Verdict.INCONCLUSIVE, budget.limit, reason=reason)
