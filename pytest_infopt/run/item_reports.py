"""What pytest reports of a gate's item: its result travels along, its verdict has a word."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from ..conformance.results import CONFORMANCE
from ..report.junit import gate_from_properties, junit_properties
from ..results.verdict import Verdict
from .running_gate import GATE_KEY
from .session import InfoptSession

_WORDS = {
    Verdict.INCONCLUSIVE: ("inconclusive", "I", ("INCONCLUSIVE", {"yellow": True})),
    Verdict.ERROR: ("error", "E", ("HARNESS ERROR", {"red": True})),
}


class ItemReports:
    """pytest's hooks on the reports of single items."""

    def __init__(self, session: InfoptSession) -> None:
        self._session = session

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        gate = item.stash.get(GATE_KEY, None)
        if gate is not None and call.when == "call":
            result = self._session.results.get((gate.spec.name, gate.candidate.name))
            if result is not None:
                item.user_properties.extend(junit_properties(result))
        return (yield)

    def pytest_report_teststatus(
        self, report: pytest.CollectReport | pytest.TestReport
    ) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        if report.when != "call" or not isinstance(report, pytest.TestReport):
            return None
        gate = gate_from_properties(report.user_properties)
        if gate is None or gate.gate == CONFORMANCE:
            return None
        if gate.not_run:
            return "not run", "N", ("NOT RUN", {"yellow": True})
        return _WORDS.get(gate.verdict)
