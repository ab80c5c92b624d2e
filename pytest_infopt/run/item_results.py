"""The result that a test report brings."""

from __future__ import annotations

import pytest

from ..report.junit import gate_from_properties
from ..results.gate_result import GateResult


def result_of(report: pytest.TestReport) -> GateResult | None:
    """The result that a phase of an item brought; a teardown that went well only carries it."""
    if report.when == "call" or not report.passed:
        return gate_from_properties(report.user_properties)
    return None
