"""What all reports of a run share, as text: reports made from it do layout and escaping only.

Text from models and users is visible in it (`report.text`), on one line, and not escaped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..conformance.results import CONFORMANCE, shown
from ..metrics.metric import Rule
from ..results.gate_result import GateResult
from ..results.run_result import RunResult
from ..results.verdict import Judgement, Verdict, combine
from .measured import notes_of, tables_of
from .message import NOTHING_JUDGED, failure_message, judged_sentence, was_judged
from .text import visible
from .wording import (
    budget_text,
    count_text,
    duration_text,
    estimate_text,
    gate_word,
    known_metric,
    tally_text,
    verdict_text,
)

COLUMNS = ("metric", "budget", "value [interval]", "n (units)", "verdict")


@dataclass(frozen=True)
class MetricRow:
    """A judgement with a cell for each of `COLUMNS`; ``headline`` puts it into short tables."""

    judgement: Judgement
    cells: tuple[str, ...]
    headline: bool


@dataclass(frozen=True)
class GateView:
    """One gate on one candidate; ``word`` is its verdict or NOT RUN, ``message`` says why.

    ``notes`` are the gate's own, ``table_notes`` follow from its measured ``tables``.
    """

    gate: str
    candidate: str
    verdict: Verdict
    word: str
    time: str
    rows: list[MetricRow]
    notes: list[str]
    table_notes: list[str]
    tables: list[dict[str, Any]]
    message: str
    findings: list[dict[str, Any]]
    is_conformance: bool


@dataclass(frozen=True)
class CandidateView:
    """A candidate with its gates; without any, nothing ran on it."""

    name: str
    verdict: Verdict
    gates: list[GateView]


@dataclass(frozen=True)
class RunView:
    """A run; the last lists hold a sentence for each thing to say."""

    verdict: Verdict
    verdict_line: str
    reference: str | None
    candidates: list[CandidateView]
    gates: list[GateView]
    not_run: list[str]
    errors: list[str]
    inconclusive: list[str]
    failures: list[str]
    left_out: list[str]
    not_applicable: list[str]
    failed_tests: list[str]
    faults: list[str]


def run_view(run: RunResult) -> RunView:
    """The run as every report shows it."""
    gates = [_gate_view(gate) for gate in run.gates]
    view_of = {id(gate): view for gate, view in zip(run.gates, gates, strict=True)}
    return RunView(
        verdict=run.verdict,
        verdict_line=_verdict_line(run),
        reference=visible(str(run.reference.get("name", "?"))) if run.candidates else None,
        candidates=[
            CandidateView(
                visible(name),
                combine([gate.verdict for gate in its_gates]),
                [view_of[id(gate)] for gate in its_gates],
            )
            for name, its_gates in _by_candidate(run).items()
        ],
        gates=gates,
        not_run=[*map(visible, run.not_run), *_not_run(run)],
        errors=list(_errors(run)),
        inconclusive=list(_inconclusive(run)),
        failures=list(_failures(run)),
        left_out=list(map(visible, run.left_out)),
        not_applicable=list(map(visible, run.not_applicable)),
        failed_tests=list(map(visible, run.failed_tests)),
        faults=list(map(visible, run.faults)),
    )


def _gate_view(gate: GateResult) -> GateView:
    return GateView(
        gate=visible(gate.gate),
        candidate=visible(gate.candidate),
        verdict=gate.verdict,
        word=gate_word(gate),
        time=duration_text(gate.seconds),
        rows=[MetricRow(each, _cells(each), _is_headline(each)) for each in shown(gate)],
        notes=list(map(visible, gate.notes)),
        table_notes=list(map(visible, notes_of(gate))),
        tables=tables_of(gate),
        message=failure_message(gate),
        findings=gate.findings,
        is_conformance=gate.gate == CONFORMANCE,
    )


def _not_run(run: RunResult) -> Iterator[str]:
    for gate in run.gates:
        if gate.not_run:
            yield f"{_where(gate)}: {visible(gate.not_run)}"


def _verdict_line(run: RunResult) -> str:
    """The last line: the run's verdict and how many gates came to which."""
    counts = [
        (len(run.failed_tests), "tests failed" if len(run.failed_tests) > 1 else "test failed"),
        (len(run.faults), "broke"),
        (len(run.not_run), "not run"),
        (len(run.left_out), "left out"),
    ]
    tally = [tally_text([gate.verdict for gate in run.gates])]
    tally += [f"{count} {what}" for count, what in counts if count]
    part = " of a part" if run.left_out and run.verdict is Verdict.PASS else ""
    return f"infopt: {run.verdict}{part} ({', '.join(tally)}) in {duration_text(run.seconds)}"


def _by_candidate(run: RunResult) -> dict[str, list[GateResult]]:
    """The gates of each candidate: candidates in the release's order, then any others."""
    names = [str(candidate.get("name", "")) for candidate in run.candidates]
    groups: dict[str, list[GateResult]] = {name: [] for name in names}
    for gate in run.gates:
        groups.setdefault(gate.candidate, []).append(gate)
    return groups


def _is_headline(judgement: Judgement) -> bool:
    """Whether a terminal shows it: what was judged, and what is not one quantile of many."""
    metric = known_metric(judgement.metric)
    quantile = metric is not None and metric.rule is Rule.EXCEEDANCE
    return judgement.verdict is not None or not quantile


def _cells(judgement: Judgement) -> tuple[str, ...]:
    """Metric, budget, value with interval, n (units), verdict: the columns of every table."""
    return (
        visible(judgement.metric),
        budget_text(judgement),
        estimate_text(judgement),
        count_text(judgement),
        verdict_text(judgement),
    )


def _errors(run: RunResult) -> Iterator[str]:
    """What is wrong, once for all gates that it broke."""
    found: dict[str, list[str]] = {}
    for gate in run.gates:
        if gate.error is not None:
            # The first line says what is wrong; the message has the rest, such as a traceback.
            sentence = visible(next(iter(gate.error.strip().splitlines()), ""))
            found.setdefault(sentence, []).append(_where(gate))
    yield from (f"{', '.join(gates)}: {sentence}" for sentence, gates in found.items())


def _inconclusive(run: RunResult) -> Iterator[str]:
    for gate in run.gates:
        if not was_judged(gate):
            yield f"{_where(gate)}: {NOTHING_JUDGED}"
        if gate.not_run:
            continue
        for judgement in gate.judgements:
            if judgement.verdict is Verdict.INCONCLUSIVE:
                yield f"{_where(gate)}: {judged_sentence(gate, judgement)}"


def _failures(run: RunResult) -> Iterator[str]:
    for gate in run.gates:
        failed = [judgement for judgement in gate.judgements if judgement.verdict is Verdict.FAIL]
        for judgement in failed:
            yield f"{_where(gate)}: {judged_sentence(gate, judgement)}"
        if failed and gate.reproduce:
            yield f"reproduce: {visible(gate.reproduce)}"


def _where(gate: GateResult) -> str:
    return f"{visible(gate.candidate)} {visible(gate.gate)}"
