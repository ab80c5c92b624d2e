"""The run as GitHub-flavoured Markdown, for a CI step's summary.

Text from models, prompts and configuration stands in it as entities or in fenced blocks, where it
can make no links, no HTML, no table cells and no headings (CommonMark 0.31, sections 2.5 and 4.5).
"""

from __future__ import annotations

import re
from typing import Any

from ..conformance.results import shown
from ..results.gate_result import GateResult
from ..results.run_result import RunResult
from ..results.verdict import Verdict, combine
from .measured import cell_rows, tables_of
from .terminal import by_candidate, failure_message, metric_cells, verdict_line
from .text import visible
from .wording import duration_text

# Whatever may open a construct of CommonMark, of GFM tables and autolinks, or of GitHub's own
# (mentions, issue numbers, mathematics). An entity is always literal text.
# Underscores inside a word are no emphasis; a full stop matters where "www." would become a link.
_SPECIAL = re.compile(
    r"[\\`*\[\]<>#|~@&$]|(?<![0-9]):|:(?![0-9])"
    r"|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])|(?<=www)\.",
    re.IGNORECASE,
)

_MARKS = {
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
    sections = [f"## {_MARKS[run.verdict]} {verdict_line(run)}", _origin(run)]
    sections += [_candidate(name, gates) for name, gates in by_candidate(run).items()]
    sections += [_measured(gate, table) for gate in run.gates for table in tables_of(gate)]
    if run.not_run:
        sections.append("### Not run\n\n" + fenced("\n".join(map(visible, run.not_run))))
    failures = [gate for gate in run.gates if gate.verdict is not Verdict.PASS]
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


def _candidate(name: str, gates: list[GateResult]) -> str:
    title = f"### {escaped(name)}: "
    if not gates:
        return f"{title}no gate ran"
    verdict = combine([gate.verdict for gate in gates])
    rows = [line for gate in gates for line in _gate_rows(gate)]
    return "\n".join(
        [
            f"{title}{_MARKS[verdict]} {verdict}",
            "",
            "| gate | metric | budget | value [interval] | n (clusters) | verdict | time |",
            "|---|---|---|---|---:|---|---:|",
            *rows,
        ]
    )


def _gate_rows(gate: GateResult) -> list[str]:
    notes = "; ".join(escaped(note) for note in gate.notes)
    head = [f"**{escaped(gate.gate)}**", notes, "", "", ""]
    lines = [[*head, f"{_MARKS[gate.verdict]} {gate.verdict}", duration_text(gate.seconds)]]
    lines += [
        ["", escaped(metric), *ours, ""]
        for metric, *ours in (metric_cells(judgement) for judgement in shown(gate))
    ]
    return [f"| {' | '.join(line)} |" for line in lines]


def _measured(gate: GateResult, table: dict[str, Any]) -> str:
    header, *rows = [[escaped(cell) for cell in row] for row in cell_rows(table)]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    notes = [escaped(str(note)) for note in table.get("notes", ())]
    title = f"{escaped(gate.candidate)}: {escaped(str(table['title']))}"
    return "\n".join(
        [
            f"<details><summary>{title}</summary>",
            "",
            *(f"| {' | '.join(line)} |" for line in lines),
            *(line for note in notes for line in ("", f"Note: {note}")),
            "",
            "</details>",
        ]
    )


def _failure(gate: GateResult) -> str:
    # The blank lines around the block make GitHub read Markdown inside <details>.
    summary = f"{escaped(gate.candidate)} {escaped(gate.gate)}: {gate.verdict}"
    return "\n".join(
        [
            f"<details><summary>{summary}</summary>",
            "",
            fenced(failure_message(gate)),
            "",
            "</details>",
        ]
    )
