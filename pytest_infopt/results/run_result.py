"""The result of a run as data. Every report is made from a `RunResult` and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .gate_result import GateResult
from .verdict import Verdict, combine

SCHEMA = 1  # of result.json; raised when a field changes its meaning or goes


@dataclass(frozen=True)
class RunResult:
    """A whole run: who was compared, where, and what came out.

    ``not_run`` is what was asked for and did not come to its end, ``left_out`` what nobody asked
    this run for: gates that were deselected, and candidates of the embedded release that this
    machine cannot run. ``not_applicable`` are gates that nobody asked for, and that an engine
    cannot serve. ``failed_tests`` are tests beside the gates, ``faults`` what broke beside them. A
    sentence each. ``corpus`` is the fingerprint of the documents, "" where no model was loaded.
    """

    version: str
    started: str
    run_id: str
    environment: dict[str, Any]
    reference: dict[str, Any]
    candidates: list[dict[str, Any]]
    gates: list[GateResult]
    seconds: float
    not_run: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    not_applicable: list[str] = field(default_factory=list)
    failed_tests: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    corpus: str = ""

    @property
    def verdict(self) -> Verdict:
        """The run's one verdict: every report shows it, and the exit status follows from it.

        What was asked for and did not run keeps a run from passing, as does a run without gates.
        """
        verdicts = [gate.verdict for gate in self.gates]
        if self.failed_tests:
            verdicts.append(Verdict.FAIL)
        if self.faults:
            verdicts.append(Verdict.ERROR)
        if self.not_run:
            verdicts.append(Verdict.INCONCLUSIVE)
        return combine(verdicts) if self.gates else combine([*verdicts, Verdict.INCONCLUSIVE])
