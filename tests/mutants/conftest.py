"""Counts killed mutants and false alarms, by area, from the reports of the tests."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line an area. Tests say what they are with ``record_property("kill", (kind, area))``."""
    met, counts = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in getattr(report, "user_properties", ()):
                if name == "kill":
                    counts[value] += 1
                    met[value] += outcome == "passed"
    for area in sorted({area for _, area in counts}):
        terminalreporter.write_line(summary(area, met, counts))


def summary(area: str, met: Counter[tuple[str, str]], counts: Counter[tuple[str, str]]) -> str:
    mutants, sound = counts["mutant", area], counts["sound", area]
    killed, alarms = met["mutant", area], sound - met["sound", area]
    share = f"{100 * killed / mutants:.0f} %" if mutants else "none"
    return f"{area}: kill rate: {killed}/{mutants} ({share}), false alarms: {alarms}/{sound}"


@pytest.fixture
def counted(record_property: Any) -> Any:
    """Call with "mutant" or "sound" and the area, before anything that may fail."""
    return lambda kind, area: record_property("kill", (kind, area))
