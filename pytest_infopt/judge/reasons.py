"""Why a metric failed, or is not decided, in words."""

from __future__ import annotations

from collections.abc import Collection

from ..metrics.budget import Budget, format_value
from .protocol import MetricTest
from .worst import ExactTest


def harm(test: MetricTest, budget: Budget, family: int) -> str:
    """What a FAIL rests on; ``family`` is how many metrics share its error rate."""
    if not test.statistical:
        value = format_value(test.metric, test.estimate)
        return f"{value} breaks {budget.describe()}"
    shared = f", error rate shared by {family} metrics" if family > 1 else ""
    return f"breaks {budget.describe()} (p = {test.p_fail:.2g}{shared})"


def kept(test: MetricTest, budget: Budget) -> str:
    """What a PASS says, and what it rests on."""
    promise = f", {test.promise()}" if test.promise() else ""
    evidence = f" (p = {test.p_pass:.2g})" if test.statistical else ""
    return f"keeps {budget.describe()}{promise}{evidence}"


def doubt(
    test: MetricTest, budget: Budget, failed: Collection[str], needed: int | None, samples: str
) -> str:
    """Why there is no verdict: ``failed`` are the metrics that ended the gate, ``needed`` about how
    many more ``samples`` would decide."""
    if isinstance(test, ExactTest) and test.differs:
        return "two readings of a deterministic number differ, so neither counts"
    if failed:
        return f"undecided when {min(failed)} failed, after {test.units} {samples}"
    if needed is None:
        return (
            f"{test.units} {samples} do not tell on which side of {budget.describe()} it lies; "
            "it is too near the limit to say how many would"
        )
    return f"{test.units} {samples} do not decide {budget.describe()}"
