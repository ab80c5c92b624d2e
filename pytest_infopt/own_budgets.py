"""Budgets inside a user's own tests: the `infopt_budget` fixture."""

from __future__ import annotations

import math

import pytest

from .judge.verdict import Judgement, Verdict
from .report.junit import junit_properties
from .report.result import GateResult
from .report.wording import budget_text, value_text

GATE = "own tests"


class OwnBudgets:
    """Numbers that one test measured, each beside the limit it was given."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._judgements: list[Judgement] = []

    def __call__(
        self,
        metric: str,
        value: float,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> Verdict:
        """Record ``value`` against one limit; a value that is not a number is a FAIL.

        Raises ValueError unless exactly one of ``at_most`` and ``at_least`` is given.
        """
        if (at_most is None) == (at_least is None):
            raise ValueError(f"{metric}: give either at_most or at_least, got both or neither")
        limit = at_most if at_most is not None else at_least
        assert limit is not None
        inside = value <= limit if at_most is not None else value >= limit
        verdict = Verdict.PASS if inside else Verdict.FAIL
        self._judgements.append(
            Judgement(
                metric,
                value if math.isfinite(value) else None,
                n=1,
                clusters=1,
                verdict=verdict,
                budget=limit,
                details={"at_least": at_least is not None},
            )
        )
        return verdict

    def attach(self) -> None:
        """Put the rows into the test's report."""
        if self._judgements:
            result = GateResult(GATE, self._item.nodeid, 0.0, self._judgements)
            self._item.user_properties.extend(junit_properties(result))

    def conclude(self) -> None:
        """Fail the test if any number is beyond its limit."""
        __tracebackhide__ = True
        broken = [j for j in self._judgements if j.verdict is Verdict.FAIL]
        if broken:
            lines = [
                f"{j.metric} {value_text(j.metric, j.value)}, {budget_text(j)}" for j in broken
            ]
            pytest.fail("beyond its limit: " + "; ".join(lines), pytrace=False)
