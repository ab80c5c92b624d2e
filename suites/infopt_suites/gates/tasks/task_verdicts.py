"""Several tasks, one verdict: the worst task's. PASS takes all of them, each with much to lose.

The tasks share the error rate of FAIL evenly; PASS needs no correction, since all must pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_infopt import Budget, Judgement, MeasuredTable, Plot, Sample, Verdict

from ..several_tasks import without_guesses, worst_of
from .task_data import AskedTask
from .task_plan import KEPT, LOSS

_SHOWN = 8  # flipped items of each kind
_LONGEST = 160  # characters of an answer that a report shows


@dataclass(frozen=True)
class JudgedTask:
    task: AskedTask
    judgements: Sequence[Judgement]
    samples: Sequence[Sample]

    def of(self, metric: str) -> Judgement | None:
        return next((each for each in self.judgements if each.metric == metric), None)


def not_run(task: AskedTask, budgets: Mapping[str, Budget]) -> JudgedTask:
    """A task that an engine cannot be asked: never green."""
    reason = f"could not be run: {task.problem}"
    return JudgedTask(
        task,
        [
            Judgement(name, None, 0, 0, Verdict.INCONCLUSIVE, budget.limit, reason=reason)
            for name, budget in budgets.items()
        ],
        [],
    )


def doubted(judgement: Judgement, chance: float, alpha: float) -> Judgement:
    """A PASS that shows nothing is none: where the reference hardly beats chance, a candidate that
    knows nothing would keep the limit, too."""
    if judgement.metric not in (LOSS.name, KEPT.name):
        return judgement
    return without_guesses(judgement, chance, alpha, kept=judgement.metric == KEPT.name)


def together(tasks: Sequence[JudgedTask]) -> list[Judgement]:
    """One judgement for each metric: that of the task that decides, which the reason names."""
    return worst_of([(each.task.name, each.judgements) for each in tasks], {KEPT.name})


def accuracy_table(tasks: Sequence[JudgedTask]) -> MeasuredTable:
    """Both accuracies of every task, what was lost and gained, and each task's own verdict."""
    return MeasuredTable(
        "tasks",
        ("task", "items", "reference", "candidate", "chance", "lost", "gained", "loss", "verdict"),
        tuple(_row(task) for task in tasks),
        plot=Plot("task", ("reference", "candidate", "chance"), "accuracy", "bar", ordered=True),
    )


def _row(judged: JudgedTask) -> tuple[str | float | int | None, ...]:
    loss = judged.of(LOSS.name)
    if loss is None or not loss.n:
        return (judged.task.name, 0, *[None] * 6, "could not be run")
    low, high = (100 * end for end in loss.interval or (float("nan"),) * 2)
    told = loss.details
    return (
        judged.task.name,
        loss.n,
        told["reference_accuracy"],
        told["candidate_accuracy"],
        judged.task.chance,
        told["lost"],
        told["gained"],
        f"{100 * (loss.value or 0):.3g} [{low:.3g}, {high:.3g}] points",
        str(loss.verdict or ""),
    )


def flips_table(tasks: Sequence[JudgedTask]) -> MeasuredTable | None:
    """The first items that only one of the two answers right, with both answers; lost ones first.
    None where there are none."""
    rows = flips_of(tasks)
    shown = [pair for kind in ("lost", "gained") for pair in _first(rows, kind)]
    if not shown:
        return None
    columns = ("flip", "task", "item", "right answer", "reference", "candidate")
    return MeasuredTable(
        "items that flipped",
        columns,
        tuple(
            (flip["flip"], name, *(_short(flip[key]) for key in ("item", *columns[3:])))
            for name, flip in shown
        ),
        (f"items that flipped: {len(rows)}; all are in result.json, under flips",),
    )


def flip_notes(tasks: Sequence[JudgedTask]) -> list[str]:
    """The first lost items as sentences, for the message of a failure."""
    rows = flips_of(tasks)
    return [
        f"lost {name} {flip['item']}: {_short(flip['question'])!r}, "
        f"right {flip['right answer']!r}, reference {_short(flip['reference'])!r}, "
        f"candidate {_short(flip['candidate'])!r}"
        for name, flip in _first(rows, "lost")[:3]
    ]


def flips_of(tasks: Sequence[JudgedTask]) -> list[tuple[str, Any]]:
    """The items that only one answers right, each with its task's name."""
    return [
        (each.task.name, flip)
        for each in tasks
        for sample in each.samples
        for flip in sample.details["flips"]
    ]


def _first(rows: list[tuple[str, Any]], kind: str) -> list[tuple[str, Any]]:
    return [(name, flip) for name, flip in rows if flip["flip"] == kind][:_SHOWN]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"
