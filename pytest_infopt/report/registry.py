"""The installed reports, by entry points of the group ``infopt.reports``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..naming import import_named, registered
from ..results.run_result import RunResult

__all__ = ["ReportSpec", "report_lines", "reports", "write_reports"]

GROUP = "infopt.reports"


@dataclass(frozen=True)
class ReportSpec:
    """A report: ``write`` puts files into the run's folder, ``lines`` of a width on the terminal.

    ``appends`` says that writing twice would say everything twice: such a report is written when
    the others have been. Raises ValueError for a report that neither writes nor has lines.
    """

    name: str
    summary: str
    write: Callable[[RunResult, Path], None] | None = None
    lines: Callable[[RunResult, int], list[str]] | None = None
    appends: bool = False

    def __post_init__(self) -> None:
        if self.write is None and self.lines is None:
            raise ValueError(f"report {self.name!r} has neither write nor lines")


def reports() -> Mapping[str, ReportSpec]:
    """Every installed report by the name of its entry point, the terminal's table first.

    Raises ConfigurationError for an entry point that cannot be loaded, TypeError for one that is
    no `ReportSpec`.
    """
    return {name: _loaded(name) for name in _names()}


def write_reports(run: RunResult, directory: Path) -> RunResult:
    """Write every report. A report that fails is a fault of the run: it is told in the run returned
    and in all the others, which are written all the same.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _with(run, [f"reports: {directory}: {error.strerror or error}"])
    told = _with(run, _write(run, directory, appends=False))
    written = _with(told, _write(told, directory, appends=True))
    if written is not run:
        _write(written, directory, appends=False)
    return written


def _with(run: RunResult, faults: list[str]) -> RunResult:
    new = [fault for fault in faults if fault not in run.faults]
    return replace(run, faults=[*run.faults, *new]) if new else run


def _write(run: RunResult, directory: Path, *, appends: bool) -> list[str]:
    """Write some reports; returns a line for each that failed."""
    failures = []
    for name in _names():
        try:
            spec = _loaded(name)
            if spec.write is not None and spec.appends is appends:
                spec.write(run, directory)
        except Exception as error:  # reports are other people's code
            failures.append(_failure(name, error))
    return list(dict.fromkeys(failures))


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
