"""The run as lines of plain text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from ..results.run_result import RunResult
from .registry import ReportSpec
from .table import Row, table_lines
from .text import NO_BREAK, visible, wrapped
from .view import COLUMNS, GateView, MetricRow, RunView, run_view

NARROWEST, WIDEST = 40, 160


def terminal_lines(run: RunResult, width: int) -> list[str]:
    """The table, what was not run, errors, what is inconclusive and why, failures, the verdict.

    Lines keep to ``width`` terminal cells, for widths of at least 40; beyond 160 they grow no more.
    """
    width = min(max(width, NARROWEST), WIDEST)
    view = run_view(run)
    title = f"infopt {visible(run.version)}, run {visible(run.run_id)}"
    if view.reference is not None:
        title += f", reference {view.reference}"
    lines = [*wrapped(title, width), "", *table_lines(list(_rows(view)), width)]
    for heading, entries in (
        ("NOT APPLICABLE", view.not_applicable),
        ("LEFT OUT", view.left_out),
        ("NOT RUN", view.not_run),
        ("ERRORS", [*view.errors, *view.faults]),
        ("INCONCLUSIVE", view.inconclusive),
        ("FAILED", [*view.failures, *view.failed_tests]),
    ):
        if entries:
            lines += ["", heading]
            lines += [line for entry in entries for line in wrapped(entry, width, "  ")]
    return [*lines, "", *wrapped(view.verdict_line, width)]


def _rows(view: RunView) -> Iterator[Row]:
    if any(not gate.is_conformance for gate in view.gates):
        yield Row(COLUMNS)
    for candidate in view.candidates:
        if not candidate.gates:
            continue  # deselected; what was planned and did not run is listed below
        yield Row((f"{candidate.name}: {candidate.verdict}",))
        for gate in candidate.gates:
            yield Row((f"{gate.gate}, {gate.time}", "", "", "", gate.word), indent=1)
            for row in gate.rows:
                if row.headline:
                    yield Row(_row_cells(gate, row), indent=2)
            for note in [*gate.notes, *gate.table_notes]:
                yield Row((note,), indent=3)


def _row_cells(gate: GateView, row: MetricRow) -> tuple[str, ...]:
    """A metric's cells; a property has neither value nor budget, and its name the whole width."""
    if gate.is_conformance:
        return (f"{row.cells[-1]} {row.cells[0]}",)
    return tuple(map(_unbroken_interval, row.cells))


def _unbroken_interval(cell: str) -> str:
    value, bracket, interval = cell.partition("[")
    return value + bracket + interval.replace(" ", NO_BREAK)


REPORT = ReportSpec("terminal", "the table and the verdict on the terminal", lines=terminal_lines)
