"""Tasks: does the candidate answer as well as the reference?

The unit is the item, or the items that share a passage. Both models answer each, so that most of
what an accuracy varies by, the choice of items, cancels out.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun

from .announcement import first_notes
from .task_data import AskedTask
from .task_plan import LOSS
from .task_verdicts import (
    JudgedTask,
    accuracy_table,
    doubted,
    flip_notes,
    flips_of,
    flips_table,
    not_run,
    together,
)

if TYPE_CHECKING:
    from .measure import TasksMeasure

pytestmark = pytest.mark.infopt_gate("tasks")


def test_tasks(infopt_gate: GateRun[TasksMeasure]) -> None:
    """The accuracy that the candidate loses stays within its margin on every task.

    Reports list the items that flipped, with both answers. A task that an engine cannot be asked,
    and one that the reference itself cannot do, is no PASS.
    """
    gate = infopt_gate
    tasks = gate.measure.tasks()
    budget = gate.budgets.get(LOSS.name)
    limit, alpha = budget.limit if budget else None, gate.release.statistics.alpha_pass
    gate.note([task.note for task in tasks if task.note and not task.problem])
    gate.note(first_notes([(task.name, task.units) for task in tasks], limit, alpha))
    started, found = time.monotonic(), list[JudgedTask]()
    for place, task in enumerate(tasks):
        left = max(0.0, gate.seconds - (time.monotonic() - started))
        found.append(judged(gate, task, place, len(tasks), left / (len(tasks) - place)))
        if gate.failed:
            break
    gate.judgements = together(found)
    gate.show(accuracy_table(found).to_json())
    gate.details["flips"] = [{"task": name, **flip} for name, flip in flips_of(found)]
    if (flips := flips_table(found)) is not None:
        gate.show(flips.to_json())
    if gate.failed:
        gate.note(flip_notes(found))
    gate.conclude()


def judged(
    gate: GateRun[TasksMeasure], task: AskedTask, place: int, count: int, seconds: float
) -> JudgedTask:
    """One task. Its digest is part of what samples are kept under: items, template, examples and
    parsing of a resumed run are those of its beginning, or everything is measured anew."""
    if task.problem:
        return not_run(task, gate.budgets)
    earlier = len(gate.samples)
    judgements = gate.collect(
        range(task.units),
        lambda index: gate.measure.unit(place, index),
        planned=task.units,
        seconds=seconds,
        phase=f"{task.name} {task.digest[:16]}",
        error_share=1 / count,
    )
    alpha = gate.release.statistics.alpha_pass
    told = [doubted(judgement, task.chance, alpha) for judgement in judgements]
    return JudgedTask(task, told, gate.samples[earlier:])
