"""Counts killed mutants and false alarms, by area, from the reports of the tests.

A test says what it is with ``record_property("kill", (kind, area))``, the kind being "mutant" or
"sound".
"""

from __future__ import annotations

from collections import Counter
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line an area, in a run of `make kill`."""
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
