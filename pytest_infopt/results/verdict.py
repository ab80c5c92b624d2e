"""The three verdicts, the error that is none, and what a judgement carries."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """PASS and FAIL each need evidence; without enough of either it is INCONCLUSIVE."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"  # the harness could not measure: no statement about the candidate


def combine(verdicts: list[Verdict]) -> Verdict:
    """One verdict of many: FAIL before ERROR before INCONCLUSIVE; PASS needs all of them.

    Evidence of harm stops a release whatever else broke, hence FAIL first. No verdict at all is
    INCONCLUSIVE: nothing was shown.
    """
    for verdict in (Verdict.FAIL, Verdict.ERROR, Verdict.INCONCLUSIVE):
        if verdict in verdicts:
            return verdict
    return Verdict.PASS if verdicts else Verdict.INCONCLUSIVE


@dataclass(frozen=True)
class Judgement:
    """What one metric of one candidate came to.

    ``value`` is the estimate in the metric's unit; ``interval`` holds at whatever moment the
    measurement stopped; ``n`` counts values (tokens, requests) and ``units`` the independent
    ones among them (documents, pairs). ``verdict`` is None where no budget was set. ``needed``
    says about how many more units would decide, ``detectable`` the smallest true excess over the
    limit that this many units would catch, in the metric's unit.
    """

    metric: str
    value: float | None
    n: int
    units: int
    verdict: Verdict | None = None
    budget: float | None = None
    interval: tuple[float, float] | None = None
    reason: str = ""
    needed: int | None = None
    detectable: float | None = None
    details: dict[str, Any] = field(default_factory=dict)
