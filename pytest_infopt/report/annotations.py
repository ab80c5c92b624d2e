"""Workflow commands that put each gate that did not pass on the page of a GitHub Actions run.

Form and escapes: "Workflow commands for GitHub Actions", ``::error title={title}::{message}``.
"""

from __future__ import annotations

from ..results.gate_result import GateResult
from ..results.run_result import RunResult
from ..results.verdict import Verdict
from .terminal import failure_message
from .text import visible

_COMMANDS = {
    Verdict.FAIL: "error",
    Verdict.ERROR: "error",
    Verdict.INCONCLUSIVE: "warning",
}


def workflow_commands(run: RunResult) -> list[str]:
    """One command, on one line, for each gate that failed, broke, or stayed inconclusive."""
    return [_command(gate) for gate in run.gates if gate.verdict in _COMMANDS]


def _command(gate: GateResult) -> str:
    title = visible(f"infopt {gate.verdict}: {gate.gate} of {gate.candidate}")
    message = failure_message(gate)
    return f"::{_COMMANDS[gate.verdict]} title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    # The percent sign first: the other escapes contain one.
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
