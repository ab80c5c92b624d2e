"""Tasks: a sample is an item, or the items of a passage, which reference and candidate answer."""

from collections.abc import Mapping, Sequence

from pytest_infopt import BudgetContext, GateSpec, Release
from pytest_infopt.errors import ConfigurationError

from .task_plan import FLIPS_GAINED, FLIPS_LOST, KEPT, LOSS, TasksPlan


def default_budgets(context: BudgetContext) -> Mapping[str, float]:
    """Two points, whatever the number format: a task's users do not see formats."""
    return {LOSS.name: 0.02}


def most_samples(release: Release, documents: int | None) -> int | None:
    """Units of the smallest task; None where one cannot be read."""
    from .release_tasks import tasks_of

    try:
        return min((len(task.units) for task in tasks_of(release)), default=None)
    except ConfigurationError:
        return None


def announced(release: Release) -> Sequence[str]:
    """What each task can tell, before anything is measured."""
    if not release.plan(TasksPlan).files_or_packages:
        return ()
    from .announcement import announcement

    return announcement(release)


GATE = GateSpec(
    package=__package__,
    name="tasks",
    summary="The candidate answers tasks as well as the reference, within a margin.",
    order=35,
    samples="items",
    plans=(TasksPlan,),
    switch=(TasksPlan, "files_or_packages"),
    default_budgets=default_budgets,
    most_samples=most_samples,
    announced=announced,
    budget_seconds=1200.0,
    metrics=(LOSS, KEPT, FLIPS_LOST, FLIPS_GAINED),
)
