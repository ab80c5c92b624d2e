"""A finished run on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigurationError
from ..report.document import read_result
from ..results.run_result import RunResult
from ..store.journal import latest_run, run_directory

_REPORTS = Path(".infopt")
_RESULT = "result.json"


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder and what it came to."""

    directory: Path
    result: RunResult


def found_run(name: str) -> FinishedRun:
    """The run of that folder, ``result.json`` or id; "latest" is the last of .infopt/runs here.

    Raises ConfigurationError where there is none, ResultFileError for a damaged result.
    """
    directory = _directory(name)
    if not (directory / _RESULT).is_file():
        raise ConfigurationError(
            f"{name}: {directory} holds no {_RESULT}; name the folder of a finished run, its "
            f"{_RESULT}, its id below {_REPORTS / 'runs'}, or latest"
        )
    return FinishedRun(directory, read_result(directory / _RESULT))


def _directory(name: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path.parent
    if path.is_dir():
        return path
    if name == "latest":
        return latest_run(_REPORTS) or _REPORTS / "runs"
    try:
        return run_directory(_REPORTS, name)
    except ValueError:  # no id: what is said of a folder that is not there fits
        return path
