"""What a baselines file holds: each limit, where it comes from, and how often it was loosened."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigurationError
from ..gates.registry import metrics
from ..metrics.budget import Budget
from ..report.table import Row, table_lines
from ..report.text import visible
from ..store.baselines import Baselines, Entry

_COLUMNS = ("metric", "limit", "run", "date", "loosened")


def baseline_lines(path: Path, width: int) -> list[str]:
    """The limits by device and candidate, oldest first. Raises ConfigurationError where there is no
    such file, BaselineError for a damaged one."""
    if not path.exists():
        raise ConfigurationError(
            f"{path} does not exist; begin it with pytest --infopt --infopt-baseline={path} "
            "--infopt-baseline-update"
        )
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in Baselines.load(path).entries:
        groups.setdefault((entry.provenance.device, entry.candidate), []).append(entry)
    lines: list[str] = []
    for (device, candidate), entries in groups.items():
        rows = [_row(each) for each in sorted(entries, key=lambda each: each.provenance.date)]
        lines += [visible(f"{candidate} on {device}")]
        lines += [*table_lines([Row(_COLUMNS), *rows], width), ""]
    return lines[:-1] or ["no limits"]


def _row(entry: Entry) -> Row:
    limit = Budget(metrics()[entry.metric], entry.limit).describe()
    steps = [visible(f"{step.date}: {step.reason}") for step in entry.history]
    told = visible(entry.provenance.run_id), visible(entry.provenance.date)
    return Row((entry.metric, limit, *told, "; ".join(steps) or "–"))
