"""The installed reports, by entry points of the group ``infopt.reports``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..naming import import_named, registered
from ..results.run_result import RunResult

__all__ = ["ReportSpec", "report_lines", "reports", "write_reports"]

GROUP = "infopt.reports"


@dataclass(frozen=True)
class ReportSpec:
    """A report: ``write`` puts files into the run's folder, ``lines`` of a width on the terminal.

    Raises ValueError for a report that does neither.
    """

    name: str
    summary: str
    write: Callable[[RunResult, Path], None] | None = None
    lines: Callable[[RunResult, int], list[str]] | None = None

    def __post_init__(self) -> None:
        if self.write is None and self.lines is None:
            raise ValueError(f"report {self.name!r} has neither write nor lines")


def reports() -> Mapping[str, ReportSpec]:
    """Every installed report by the name of its entry point, the terminal's table first.

    Raises ConfigurationError for an entry point that cannot be loaded, TypeError for one that is
    no `ReportSpec`.
    """
    return {name: _loaded(name) for name in _names()}


def write_reports(run: RunResult, directory: Path) -> list[str]:
    """Write every report; returns a line for each that failed, the others are written all the same.

    Raises OSError where the folder cannot be made.
    """
    directory.mkdir(parents=True, exist_ok=True)
    failures = []
    for name in _names():
        try:
            if (write := _loaded(name).write) is not None:
                write(run, directory)
        except Exception as error:  # reports are other people's code
            failures.append(_failure(name, error))
    return failures


def report_lines(run: RunResult, width: int) -> list[str]:
    """The terminal's lines of every report; one line in place of a report that fails."""
    found: list[str] = []
    for name in _names():
        try:
            if (lines := _loaded(name).lines) is not None:
                found += lines(run, width)
        except Exception as error:  # reports are other people's code
            found.append(_failure(name, error))
    return found


def _names() -> list[str]:
    return sorted(registered(GROUP), key=lambda name: (name != "terminal", name))


def _loaded(name: str) -> ReportSpec:
    found = import_named(registered(GROUP)[name].value)
    if not isinstance(found, ReportSpec):
        raise TypeError(f"{registered(GROUP)[name].value} is no ReportSpec")
    return found


def _failure(name: str, error: Exception) -> str:
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return f"report {name} failed: {said}"
