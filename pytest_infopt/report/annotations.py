"""Workflow commands that put each gate that did not pass on the page of a GitHub Actions run.

Form and escapes: "Workflow commands for GitHub Actions", ``::error title={title}::{message}``.
"""

from __future__ import annotations

import os

from ..results.run_result import RunResult
from ..results.verdict import Verdict
from .registry import ReportSpec
from .view import GateView, run_view

_COMMANDS = {
    Verdict.FAIL: "error",
    Verdict.ERROR: "error",
    Verdict.INCONCLUSIVE: "warning",
}


def workflow_commands(run: RunResult) -> list[str]:
    """One command, on one line, for each gate that failed, broke, or stayed inconclusive."""
    return [_command(gate) for gate in run_view(run).gates if gate.verdict in _COMMANDS]


def annotation_lines(run: RunResult, width: int = 0) -> list[str]:
    """Workflow commands for the log, where a GitHub Actions runner reads it; else none."""
    return workflow_commands(run) if os.environ.get("GITHUB_ACTIONS") == "true" else []


def _command(gate: GateView) -> str:
    title = f"infopt {gate.word}: {gate.gate} of {gate.candidate}"
    return f"::{_COMMANDS[gate.verdict]} title={_property(title)}::{_data(gate.message)}"


def _data(text: str) -> str:
    # The percent sign first: the other escapes contain one.
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


REPORT = ReportSpec(
    "github-annotations", "gates that did not pass, on the page of a run", lines=annotation_lines
)
