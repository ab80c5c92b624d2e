"""A run as a comment on a pull request: verdicts in a table, what failed, what is otherwise.

The first line is invisible on the page and the same in every comment, by which a job finds its
earlier one and edits that.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..report.markdown import MARKS, escaped, fenced, folded, table_of
from ..report.view import RunView, run_view
from ..results.run_result import RunResult
from .comparison import differences, sources_of

MARKER = "<!-- pytest-infopt -->"
LONGEST = 65_536  # characters that GitHub takes
_MOST_DIFFERENCES = 50


def comment(run: RunResult, before: RunResult | None = None) -> str:
    """The comment; with an earlier run, what is otherwise than in that.

    What would make it longer than GitHub allows is left out, and the comment says so.
    """
    view = run_view(run)
    told = "The rest is in the run's report.html and summary.md."
    kept = f"{MARKER}\n## {MARKS[run.verdict]} {escaped(view.verdict_line)}"
    for section in _sections(view, run, before):
        if len(kept) + len(section) + len(told) + 4 > LONGEST:
            return f"{kept}\n\n{told}"
        kept += f"\n\n{section}"
    return kept


def _sections(view: RunView, run: RunResult, before: RunResult | None) -> Iterator[str]:
    yield f"Run {escaped(run.run_id)}, pytest-infopt {escaped(run.version)}"
    yield _matrix(view)
    for heading, entries in (
        ("Failed", view.failures),
        ("Errors", [*view.errors, *view.faults]),
        ("Failed tests", view.failed_tests),
        ("Inconclusive", view.inconclusive),
        ("Not run", view.not_run),
        ("Not applicable", view.not_applicable),
        ("Left out", view.left_out),
    ):
        if entries:
            yield folded(heading, fenced("\n".join(entries)))
    if before is not None:
        yield from _against(before, run)


def _matrix(view: RunView) -> str:
    """Gates against candidates."""
    words = {(g.gate, g.candidate): f"{MARKS[g.verdict]} {g.word}" for g in view.gates}
    names = [candidate.name for candidate in view.candidates]
    rows = [
        [escaped(gate), *(words.get((gate, name), "") for name in names)]
        for gate in dict.fromkeys(gate for gate, _ in words)
    ]
    return table_of(["gate", *map(escaped, names)], rows) if rows else "No gate ran."


def _against(before: RunResult, after: RunResult) -> Iterator[str]:
    yield f"### Against run {escaped(before.run_id)}: {before.verdict} → {after.verdict}"
    if sources := list(sources_of(before, after)):
        yield folded("Compared under other conditions", fenced("\n".join(sources)))
    found = [
        [f"{d.candidate} {d.gate} {d.metric}".rstrip(), d.what, d.before, d.after]
        for d in differences(before, after)
    ]
    if not found:
        yield "No judgement is otherwise."
        return
    rows = [list(map(escaped, row)) for row in found[:_MOST_DIFFERENCES]]
    table = table_of(["candidate, gate and metric", "what", "before", "after"], rows)
    left = len(found) - len(rows)
    yield table + (f"\n\n{left} more: see infopt compare" if left else "")
