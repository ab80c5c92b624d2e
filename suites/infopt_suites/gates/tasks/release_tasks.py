"""The tasks that a release names."""

from __future__ import annotations

from pathlib import Path

from pytest_infopt import Release
from pytest_infopt.errors import ConfigurationError

from .lm_eval_tasks import lm_eval_task
from .task_data import Task, read_task
from .task_packages import packaged_task
from .task_plan import TasksPlan


def tasks_of(release: Release) -> list[Task]:
    """The release's tasks, drawn and in the order of measuring.

    Raises ConfigurationError naming a file's line that is no item, and for a package that is not
    installed or has no such task.
    """
    plan, seed = release.plan(TasksPlan), release.statistics.seed
    found = [_of_file(path, seed, plan.shots) for path in plan.files]
    found += [packaged_task(name, seed, plan.items, plan.shots) for name in plan.packages]
    names = [task.name for task in found]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"[tasks] names a task twice: {', '.join(sorted(names))}")
    return [
        task.drawn(seed, plan.shots if task.asking is None else 0, plan.items) for task in found
    ]


def _of_file(path: Path, seed: int, shots: int) -> Task:
    if path.suffix in (".yaml", ".yml"):
        return lm_eval_task(str(path), path.stem, "", seed, shots)
    return read_task(path)
