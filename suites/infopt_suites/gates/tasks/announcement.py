"""What a task's number of items can tell, said before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_infopt import Release
from pytest_infopt.errors import ConfigurationError
from pytest_infopt.judge.paired import fewest_items, needed_items, told_difference

from .release_tasks import tasks_of
from .task_data import Task
from .task_plan import LOSS

DISCORDANCES = (0.02, 0.06)  # shares of answers that differ: 8 and 4 bits, about


def announcement(release: Release) -> list[str]:
    """A sentence for each task; why there are none where they cannot be read."""
    try:
        tasks = tasks_of(release)
    except ConfigurationError as error:
        return [f"NOT RUN: {error}"]
    limits = {c.budgets[LOSS.name].limit for c in release.candidates if LOSS.name in c.budgets}
    alpha = release.statistics.alpha_pass
    return [
        sentence
        for task in tasks
        for sentence in [f"task {task.name}: {_size(task)}"]
        + [told(len(task.units), limit, alpha) for limit in sorted(limits) if 0 < limit < 1]
    ]


def _size(task: Task) -> str:
    units, items = len(task.units), len(task.items)
    groups = f" in {units:,} groups" if units < items else ""
    examples = f", {len(task.examples)} examples" if task.examples else ""
    return f"{items:,} items{groups}, {task.kind}{examples}"


def told(units: int, limit: float, alpha: float) -> str:
    """How many independent items a limit takes, and what so many tell, at 95 % power."""
    parts, fewest = [], fewest_items(LOSS, limit, alpha)
    for discordance in DISCORDANCES:
        needed = max(fewest, needed_items(discordance, limit, alpha))
        enough = "enough" if units >= needed else "expected inconclusive"
        tells = 100 * told_difference(discordance, units, alpha)
        parts.append(
            f"{needed:,} where {100 * discordance:g} % of the answers differ ({enough}: "
            f"{units:,} tell {tells:.2g} points)"
        )
    return f"{LOSS.name} ≤ {100 * limit:g} % takes {' and '.join(parts)}"


def first_notes(tasks: Sequence[tuple[str, int]], limit: float | None, alpha: float) -> list[str]:
    """The same for a run, of tasks by name and number of units."""
    if limit is None or not 0 < limit < 1:
        return []
    return [f"{name}: {told(units, limit, alpha)}" for name, units in tasks]
