"""The result of a run as data. Every report is made from a `RunResult` and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .gate_result import GateResult
from .verdict import Verdict, combine

SCHEMA = 1  # of result.json; raised when a field changes its meaning or goes


@dataclass(frozen=True)
class RunResult:
    """A whole run: who was compared, where, and what came out."""

    version: str
    started: str
    run_id: str
    environment: dict[str, Any]
    reference: dict[str, Any]
    candidates: list[dict[str, Any]]
    gates: list[GateResult]
    seconds: float
    not_run: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        return combine([gate.verdict for gate in self.gates])
