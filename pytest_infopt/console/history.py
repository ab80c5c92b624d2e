"""The runs of a folder in their order, and how a metric went over them.

A trend is told by the same bet as that of documents within a run: where the values are as likely in
any order, evidence of a rise reaches 1/α once in 1/α histories at most. Only runs on one device and
with one reference are in one history.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import InfoptError
from ..gates.registry import metrics
from ..judge.trend import trend_evidence
from ..report.document import read_result
from ..report.table import Row, table_lines
from ..report.text import visible
from ..report.wording import estimate_text, verdict_text
from ..results.run_result import RunResult
from ..results.verdict import Judgement

_RUNS = ("run", "started", "device", "verdict")
_VALUES = ("run", "value", "verdict")
Series = dict[tuple[str, str, str], list[tuple[str, Judgement]]]


def history_lines(reports: Path, metric: str | None, width: int) -> list[str]:
    """The finished runs below ``reports``, or what each says of a metric, by candidate."""
    runs = list(_finished(reports))
    if metric is None:
        rows = [Row((visible(r.run_id), r.started, _device(r), str(r.verdict))) for r in runs]
        return table_lines([Row(_RUNS), *rows], width) if rows else ["no finished run"]
    lines: list[str] = []
    for (candidate, device, _), values in _series(runs, metric).items():
        rows = [Row((visible(run), estimate_text(j), verdict_text(j))) for run, j in values]
        lines += [visible(f"{metric} of {candidate} on {device}")]
        lines += [*table_lines([Row(_VALUES), *rows], width), _trend(metric, values), ""]
    return lines[:-1] or [f"no finished run measured {visible(metric)}"]


def _finished(reports: Path) -> Iterator[RunResult]:
    for path in sorted((reports / "runs").glob("*/result.json")):
        try:
            yield read_result(path)
        except InfoptError:  # of another schema, or cut short: no part of the history
            continue


def _series(runs: list[RunResult], metric: str) -> Series:
    found: Series = {}
    for run in runs:
        for gate in run.gates:
            for judgement in gate.judgements:
                if judgement.metric == metric and judgement.value is not None:
                    key = gate.candidate, _device(run), str(run.reference.get("fingerprint", ""))
                    found.setdefault(key, []).append((run.run_id, judgement))
    return found


def _trend(metric: str, values: list[tuple[str, Judgement]]) -> str:
    known = metrics().get(metric)
    sign = -1.0 if known is not None and known.higher_is_better else 1.0
    evidence = trend_evidence(sign * (j.value or 0.0) for _, j in values)
    return (
        f"evidence that it gets worse: {evidence:.3g} (1: none; 100: once in 100 sound histories)"
    )


def _device(run: RunResult) -> str:
    return visible(str(run.environment.get("device", "?")))
