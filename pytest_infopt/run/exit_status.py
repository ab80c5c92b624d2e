"""What the exit status of ``pytest --infopt`` says. pytest's own (0–6) keep their meaning."""

from __future__ import annotations

from enum import IntEnum

from ..results.run_result import RunResult
from ..results.verdict import Verdict


class ExitStatus(IntEnum):
    """0 all gates passed; 1 a gate failed (or a test of yours); 10 and 11 are ours."""

    PASSED = 0
    FAILED = 1
    INCONCLUSIVE = 10
    HARNESS_ERROR = 11


def exit_status(run: RunResult, policy: str) -> ExitStatus:
    """The status of a run's verdict.

    Under the policy "warn", gates whose evidence did not suffice let the release through; what was
    asked for and not run does not.
    """
    if run.verdict is Verdict.INCONCLUSIVE and policy == "warn" and run.gates and not run.not_run:
        return ExitStatus.PASSED
    return {
        Verdict.PASS: ExitStatus.PASSED,
        Verdict.FAIL: ExitStatus.FAILED,
        Verdict.INCONCLUSIVE: ExitStatus.INCONCLUSIVE,
        Verdict.ERROR: ExitStatus.HARNESS_ERROR,
    }[run.verdict]
