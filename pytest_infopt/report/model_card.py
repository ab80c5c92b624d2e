"""``model-card.md``: what was judged of each candidate, as a section of its model card."""

from __future__ import annotations

from pathlib import Path

from ..results.run_result import RunResult
from .markdown import escaped, table_of
from .registry import ReportSpec
from .view import COLUMNS, CandidateView, run_view


def model_card(run: RunResult) -> str:
    """A table for each candidate: every metric that has a verdict, with its interval and limit."""
    sections = [_section(run, candidate) for candidate in run_view(run).candidates]
    return "\n".join(section for section in sections if section)


def _section(run: RunResult, candidate: CandidateView) -> str:
    rows = [
        [escaped(gate.gate), *map(escaped, row.cells)]
        for gate in candidate.gates
        for row in gate.rows
        if row.judgement.verdict is not None
    ]
    if not rows:
        return ""
    reference = escaped(str(run.reference.get("name", "?")))
    device = escaped(str(run.environment.get("device", "an unknown device")))
    origin = (
        f"Compared with {reference} on {device} by pytest-infopt {escaped(run.version)}, "
        f"run {escaped(run.run_id)} of {escaped(run.started)}."
    )
    title = f"## Release gates of {escaped(candidate.name)}: {candidate.verdict}"
    return f"{title}\n\n{origin}\n\n{table_of(['gate', *COLUMNS], rows)}\n"


def write_card(run: RunResult, directory: Path) -> None:
    """model-card.md in the run's folder."""
    (directory / "model-card.md").write_text(model_card(run), encoding="utf-8")


REPORT = ReportSpec("model-card", "model-card.md, a section for a model card", write=write_card)
