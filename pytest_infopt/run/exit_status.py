"""What the exit status of ``pytest --infopt`` says. pytest's own (0–6) keep their meaning."""

from __future__ import annotations

from enum import IntEnum

from ..results.verdict import Verdict


class ExitStatus(IntEnum):
    """0 all gates passed; 1 a gate failed (or a test of yours); 10 and 11 are ours."""

    PASSED = 0
    FAILED = 1
    INCONCLUSIVE = 10
    HARNESS_ERROR = 11


def exit_status(verdict: Verdict, policy: str) -> ExitStatus:
    """The status of a verdict; under the policy "warn", INCONCLUSIVE lets the release through."""
    if verdict is Verdict.INCONCLUSIVE and policy == "warn":
        return ExitStatus.PASSED
    return {
        Verdict.PASS: ExitStatus.PASSED,
        Verdict.FAIL: ExitStatus.FAILED,
        Verdict.INCONCLUSIVE: ExitStatus.INCONCLUSIVE,
        Verdict.ERROR: ExitStatus.HARNESS_ERROR,
    }[verdict]
