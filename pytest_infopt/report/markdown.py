"""The run as GitHub-flavoured Markdown, for a CI step's summary.

Text from models, prompts and configuration stands in it as entities or in fenced blocks, where it
can make no links, no HTML, no table cells and no headings (CommonMark 0.31, sections 2.5 and 4.5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..results.run_result import RunResult
from ..results.verdict import Verdict
from .comparison import COLUMNS as COMPARED
from .comparison import HOW_TIMED, compared
from .measured import cell_rows
from .registry import ReportSpec
from .text import visible
from .view import COLUMNS, CandidateView, GateView, run_view

_MOST_ROWS = 24  # of a table that is there to be drawn; report.html and result.json have all

# Whatever may open a construct of CommonMark, of GFM tables and autolinks, or of GitHub's own
# (mentions, issue numbers, mathematics). An entity is always literal text.
# Underscores inside a word are no emphasis; a full stop matters where "www." would become a link.
_SPECIAL = re.compile(
    r"[\\`*\[\]<>#|~@&$]|(?<![0-9]):|:(?![0-9])"
    r"|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])|(?<=www)\.",
    re.IGNORECASE,
)

MARKS = {
    Verdict.PASS: "✅",
    Verdict.FAIL: "❌",
    Verdict.INCONCLUSIVE: "❔",
    Verdict.ERROR: "💥",
}


def escaped(text: str) -> str:
    """The text as inline Markdown that shows the text itself, on one line.

    Not for the beginning of a line or list item, where a digit or a dash may open a block.
    """
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", visible(text))


def fenced(text: str) -> str:
    """The lines of the text as a code block that no run of backticks in them can close."""
    runs = re.findall(r"`+", text)
    fence = "`" * max([3, *(len(run) + 1 for run in runs)])
    body = "\n".join(visible(line) for line in text.split("\n"))
    return f"{fence}text\n{body}\n{fence}"


def markdown_summary(run: RunResult) -> str:
    """Verdict, a table per candidate, what was not run, and the message of each gate not passed."""
    view = run_view(run)
    sections = [f"## {MARKS[run.verdict]} {view.verdict_line}", _origin(run)]
    if comparison := compared(run):
        rows = [list(map(escaped, candidate.cells)) for candidate in comparison]
        sections.append(f"### Candidates compared\n\n{table_of(COMPARED, rows)}\n\n{HOW_TIMED}")
    sections += map(_candidate, view.candidates)
    sections += [
        _measured(gate, table)
        for gate in view.gates
        for table in gate.tables
        if "plot" not in table or len(table["rows"]) <= _MOST_ROWS
    ]
    sections += [
        f"### {heading}\n\n" + fenced("\n".join(entries))
        for heading, entries in (
            ("Not run", view.not_run),
            ("Left out", view.left_out),
            ("Not applicable", view.not_applicable),
            ("Broken", view.faults),
            ("Failed tests", view.failed_tests),
        )
        if entries
    ]
    failures = [gate for gate in view.gates if gate.verdict is not Verdict.PASS]
    if failures:
        sections.append("### What did not pass")
        sections += [_failure(gate) for gate in failures]
    return "\n\n".join(sections) + "\n"


def _origin(run: RunResult) -> str:
    reference = escaped(str(run.reference.get("name", "?")))
    subject = f"Reference {reference}, run" if run.candidates else "Run"
    return (
        f"{subject} {escaped(run.run_id)}, started {escaped(run.started)}, "
        f"pytest-infopt {escaped(run.version)}"
    )


def _candidate(candidate: CandidateView) -> str:
    title = f"### {escaped(candidate.name)}: "
    if not candidate.gates:
        return f"{title}no gate ran"
    rows = [line for gate in candidate.gates for line in _gate_rows(gate)]
    return "\n".join(
        [
            f"{title}{MARKS[candidate.verdict]} {candidate.verdict}",
            "",
            f"| gate | {' | '.join(COLUMNS)} | time |",
            "|---|---|---|---|---:|---|---:|",
            *rows,
        ]
    )


def _gate_rows(gate: GateView) -> list[str]:
    notes = "; ".join(escaped(note) for note in gate.notes)
    head = [f"**{escaped(gate.gate)}**", notes, "", "", ""]
    lines = [[*head, f"{MARKS[gate.verdict]} {gate.word}", gate.time]]
    lines += [["", escaped(row.cells[0]), *row.cells[1:], ""] for row in gate.rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _measured(gate: GateView, table: dict[str, Any]) -> str:
    header, *rows = [[escaped(cell) for cell in row] for row in cell_rows(table)]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    notes = [escaped(str(note)) for note in table.get("notes", ())]
    return folded(
        f"{escaped(gate.candidate)}: {escaped(str(table['title']))}",
        *(f"| {' | '.join(line)} |" for line in lines),
        *(line for note in notes for line in ("", f"Note: {note}")),
    )


def _failure(gate: GateView) -> str:
    summary = f"{escaped(gate.candidate)} {escaped(gate.gate)}: {gate.word}"
    return folded(summary, fenced(gate.message))


def table_of(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    rule = ["---"] * len(header)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def folded(summary: str, *lines: str) -> str:
    """Lines that a reader unfolds; the summary is Markdown already."""
    # The blank lines around them make GitHub read Markdown inside <details>.
    opening = f"<details><summary>{summary}</summary>"
    return "\n".join([opening, "", *lines, "", "</details>"])


def write_summary(run: RunResult, directory: Path) -> None:
    """summary.md in the run's folder."""
    (directory / "summary.md").write_text(markdown_summary(run), encoding="utf-8")


def append_step_summary(run: RunResult, directory: Path) -> None:
    """The summary on the page of a GitHub Actions step; nothing elsewhere."""
    if step_summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(step_summary, "a", encoding="utf-8") as stream:
            stream.write(markdown_summary(run))


REPORT = ReportSpec("markdown", "summary.md", write=write_summary)
STEP_SUMMARY = ReportSpec(
    "github-summary",
    "the summary on the page of a GitHub Actions step",
    write=append_step_summary,
    appends=True,
)
