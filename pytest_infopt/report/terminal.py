"""The run as lines of plain text for a terminal, and a failing gate's message."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ..conformance.results import CONFORMANCE, shown
from ..gates.registry import metrics
from ..metrics.metric import Rule
from ..results.gate_result import GateResult
from ..results.run_result import RunResult
from ..results.verdict import Judgement, Verdict, combine
from .measured import notes_of
from .table import Row, table_lines
from .text import NO_BREAK, defused, quoted, visible, wrapped
from .wording import (
    budget_text,
    count_text,
    duration_text,
    estimate_text,
    interval_text,
    remedy_text,
    tally_text,
    value_text,
    verdict_text,
)

NARROWEST, WIDEST = 40, 160
_NOTHING_JUDGED = "no metric was judged, so nothing was shown"
_CONTEXT = 100  # characters before the token that a finding shows
_HEADER = ("metric", "budget", "value [interval]", "n (clusters)", "verdict")


def terminal_lines(run: RunResult, width: int) -> list[str]:
    """The table, what was not run, errors, what is inconclusive and why,
    failures, the verdict line.

    Lines keep to ``width`` terminal cells, for widths of at least 40; beyond 160 they grow no more.
    Text from models and users is made visible (`report.text`).
    """
    width = min(max(width, NARROWEST), WIDEST)
    lines = wrapped(_title(run), width)
    lines += ["", *table_lines(list(_rows(run)), width)]
    for heading, entries in (
        ("NOT RUN", [visible(entry) for entry in run.not_run]),
        ("ERRORS", list(_errors(run))),
        ("INCONCLUSIVE", list(_inconclusive(run))),
        ("FAILED", list(_failures(run))),
    ):
        if entries:
            lines += ["", heading]
            lines += [line for entry in entries for line in wrapped(entry, width, "  ")]
    return [*lines, "", *wrapped(verdict_line(run), width)]


def verdict_line(run: RunResult) -> str:
    """The last line: the run's verdict and how many gates came to which."""
    tally = tally_text([gate.verdict for gate in run.gates])
    not_run = f", {len(run.not_run)} not run" if run.not_run else ""
    return f"infopt: {run.verdict} ({tally}{not_run}) in {duration_text(run.seconds)}"


def failure_message(gate: GateResult) -> str:
    """Why a gate did not pass: metrics, the worst tokens with both models' views, the command."""
    lines = [f"{visible(gate.gate)} of {visible(gate.candidate)}: {gate.verdict}"]
    if gate.error is not None:
        lines.append("  could not be measured; this says nothing about the candidate:")
        lines += [f"    {visible(line)}" for line in gate.error.splitlines()]
    for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        judged = [j for j in gate.judgements if j.verdict is verdict]
        for judgement in judged:
            lines += _judged_lines(gate, judgement)
    if not _was_judged(gate):
        lines.append(f"  {_NOTHING_JUDGED}")
    lines += [f"  note: {visible(note)}" for note in gate.notes]
    for finding in gate.findings:
        lines += _finding_lines(finding)
    diagnosis = gate.details.get("diagnosis")
    if isinstance(diagnosis, list) and diagnosis:
        lines += ["  diagnosis:", *(f"    {visible(str(sentence))}" for sentence in diagnosis)]
    if gate.reproduce:
        lines += ["  reproduce:", f"    {visible(gate.reproduce)}"]
    return "\n".join(defused(line) for line in lines)


def by_candidate(run: RunResult) -> dict[str, list[GateResult]]:
    """The gates of each candidate: candidates in the release's order, then any others."""
    names = [str(candidate.get("name", "")) for candidate in run.candidates]
    groups: dict[str, list[GateResult]] = {name: [] for name in names}
    for gate in run.gates:
        groups.setdefault(gate.candidate, []).append(gate)
    return groups


def _title(run: RunResult) -> str:
    title = f"infopt {visible(run.version)}, run {visible(run.run_id)}"
    if not run.candidates:
        return title  # nothing was compared with the reference
    return f"{title}, reference {visible(str(run.reference.get('name', '?')))}"


def _rows(run: RunResult) -> Iterator[Row]:
    if any(gate.gate != CONFORMANCE for gate in run.gates):
        yield Row(_HEADER)
    for candidate, gates in by_candidate(run).items():
        if not gates:
            continue  # deselected; what was planned and did not run is listed below
        yield Row((f"{visible(candidate)}: {combine([gate.verdict for gate in gates])}",))
        for gate in gates:
            name = f"{visible(gate.gate)}, {duration_text(gate.seconds)}"
            yield Row((name, "", "", "", gate.verdict.value), indent=1)
            for judgement in filter(is_headline, shown(gate)):
                yield Row(_row_cells(gate, judgement), indent=2)
            for note in [*gate.notes, *notes_of(gate)]:
                yield Row((visible(note),), indent=3)


def _row_cells(gate: GateResult, judgement: Judgement) -> tuple[str, ...]:
    """A metric's cells; a property has neither value nor budget, and its name the whole width."""
    if gate.gate == CONFORMANCE:
        return (f"{verdict_text(judgement)} {visible(judgement.metric)}",)
    return tuple(map(_unbroken_interval, metric_cells(judgement)))


def _unbroken_interval(cell: str) -> str:
    value, bracket, interval = cell.partition("[")
    return value + bracket + interval.replace(" ", NO_BREAK)


def is_headline(judgement: Judgement) -> bool:
    """Whether a terminal shows it: what was judged, and what is not one quantile of many."""
    metric = metrics().get(judgement.metric)
    quantile = metric is not None and metric.rule is Rule.EXCEEDANCE
    return judgement.verdict is not None or not quantile


def metric_cells(judgement: Judgement) -> tuple[str, str, str, str, str]:
    """Metric, budget, value with interval, n (clusters), verdict: the columns of every table."""
    return (
        visible(judgement.metric),
        budget_text(judgement),
        estimate_text(judgement),
        count_text(judgement),
        verdict_text(judgement),
    )


def _errors(run: RunResult) -> Iterator[str]:
    for gate in run.gates:
        if gate.error is not None:
            yield f"{_where(gate)}: {visible(' / '.join(gate.error.splitlines()))}"


def _inconclusive(run: RunResult) -> Iterator[str]:
    for gate in run.gates:
        if not _was_judged(gate):
            yield f"{_where(gate)}: {_NOTHING_JUDGED}"
        for judgement in gate.judgements:
            if judgement.verdict is Verdict.INCONCLUSIVE:
                yield f"{_where(gate)}: {_judged(gate, judgement)}"


def _failures(run: RunResult) -> Iterator[str]:
    for gate in run.gates:
        failed = [judgement for judgement in gate.judgements if judgement.verdict is Verdict.FAIL]
        for judgement in failed:
            yield f"{_where(gate)}: {_judged(gate, judgement)}"
        if failed and gate.reproduce:
            yield f"reproduce: {visible(gate.reproduce)}"


def _was_judged(gate: GateResult) -> bool:
    return gate.error is not None or any(j.verdict is not None for j in gate.judgements)


def _where(gate: GateResult) -> str:
    return f"{visible(gate.candidate)} {visible(gate.gate)}"


def _judged_lines(gate: GateResult, judgement: Judgement) -> list[str]:
    """One metric in one line; a property with the whole of what it said, and its docstring."""
    if gate.gate != CONFORMANCE:
        return [f"  {judgement.verdict} {_judged(gate, judgement)}"]
    said = str(judgement.details.get("message") or judgement.reason)
    lines = [f"  {judgement.verdict} {visible(judgement.metric)}"]
    for text in (said, str(judgement.details.get("law", ""))):
        lines += [f"    {visible(line)}".rstrip() for line in text.splitlines()]
    return lines


def _judged(gate: GateResult, judgement: Judgement) -> str:
    """One metric in one sentence."""
    if gate.gate == CONFORMANCE:
        return f"{visible(judgement.metric)}: {visible(judgement.reason)}"
    parts = [
        f"{visible(judgement.metric)} {value_text(judgement.metric, judgement.value)}",
        f"budget {budget_text(judgement)}",
        f"interval {interval_text(judgement) or 'none'}",
        f"n {count_text(judgement)}",
    ]
    if judgement.reason:
        parts.append(visible(judgement.reason))
    if judgement.verdict is Verdict.INCONCLUSIVE and (remedy := remedy_text(gate.gate, judgement)):
        parts.append(remedy)
    return ", ".join(parts)


def _finding_lines(finding: dict[str, Any]) -> list[str]:
    """A `measure.samples.TokenFinding`; keys that a user's own gate leaves out are skipped."""
    document = visible(str(finding.get("document", "?")))
    lines = [f"  document {document}, token {finding.get('position', '?')}: {_evidence(finding)}"]
    context = str(finding.get("context", ""))
    if context:
        tail = context if len(context) <= _CONTEXT else "…" + context[-_CONTEXT:]
        lines.append(f"    after {quoted(tail)}")
    for who in ("reference", "candidate"):
        if top := finding.get(f"{who}_top"):
            lines.append(f"    {who}: {_top_text(top)}")
    return lines


def _evidence(finding: dict[str, Any]) -> str:
    parts = []
    if "true_token" in finding:
        parts.append(f"true token {quoted(str(finding['true_token']))}")
    if (divergence := finding.get("kl")) is not None:
        parts.append(f"KL {value_text('kl_max', divergence)}")
    if (gap := finding.get("gap_ulps")) is not None:
        parts.append(f"reference's logit gap {_ulps(gap)} ulp")
    return ", ".join(parts)


def _ulps(gap: float) -> str:
    return f"{gap:,.0f}" if math.isfinite(gap) and gap >= 10 else f"{gap:.2g}"


def _top_text(top: list[tuple[str, float]]) -> str:
    return ", ".join(f"{quoted(token)} {100 * probability:.2f} %" for token, probability in top)
