"""What is otherwise in one run than in an earlier one: models, machine, verdicts, limits, values.

A value counts as moved where neither run's interval holds the other's value; without intervals,
where it is another number. No verdict follows from it: the two runs are not paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..report.table import Row, table_lines
from ..report.text import visible, wrapped
from ..report.wording import ABSENT, budget_text, estimate_text, gate_word, verdict_text
from ..results.gate_result import GateResult
from ..results.run_result import RunResult
from ..results.verdict import Judgement

_COLUMNS = ("gate and metric", "what", "before", "after")
_NO_VALUES = Judgement("", None, 0, 0, None)

Change = tuple[str, str, str]  # what, before, after


@dataclass(frozen=True)
class Difference:
    """One thing that is otherwise: of a gate where ``metric`` is empty."""

    candidate: str
    gate: str
    metric: str
    what: str
    before: str
    after: str


def comparison_lines(before: RunResult, after: RunResult, width: int) -> list[str]:
    """The differences as lines of at most ``width`` cells; the runs' verdicts come last."""
    sources = [line for text in sources_of(before, after) for line in wrapped(text, width, "  ")]
    rows = list(_rows(before, after))
    table = table_lines([Row(_COLUMNS), *rows], width) if rows else ["no judgement is otherwise"]
    return [
        *wrapped(visible(f"before: run {before.run_id}; after: run {after.run_id}"), width),
        *sources,
        "",
        *table,
        "",
        f"before {before.verdict}, after {after.verdict}",
    ]


def sources_of(before: RunResult, after: RunResult) -> Iterator[str]:
    """Whatever was compared, on which machine and by which version, where that is otherwise."""
    yield from _changes("version", {"": before.version}, {"": after.version})
    yield from _changes("environment", before.environment, after.environment)
    yield from _changes("reference", before.reference, after.reference)
    earlier = {str(each["name"]): each for each in before.candidates}
    for each in after.candidates:
        name = str(each["name"])
        if name in earlier:
            yield from _changes(f"candidate {name}", earlier[name], each)


def _changes(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key, ABSENT), after.get(key, ABSENT)
        if old != new:
            yield visible(f"{what}{f', {key}' if key else ''}: {old} → {new}")


def differences(before: RunResult, after: RunResult) -> Iterator[Difference]:
    """Candidate by candidate, in the later run's order; what only the earlier had comes last."""
    old, new = ({(g.candidate, g.gate): g for g in run.gates} for run in (before, after))
    for place in [*new, *(place for place in old if place not in new)]:
        for metric, change in _of_gate(old.get(place), new.get(place)):
            candidate, gate = map(visible, place)
            yield Difference(candidate, gate, visible(metric), *change)


def _rows(before: RunResult, after: RunResult) -> Iterator[Row]:
    candidate = None
    for found in differences(before, after):
        if found.candidate != candidate:
            candidate = found.candidate
            yield Row((candidate,))
        name = f"{found.gate} {found.metric}".rstrip()
        yield Row((name, found.what, found.before, found.after), indent=1)


def _of_gate(old: GateResult | None, new: GateResult | None) -> Iterator[tuple[str, Change]]:
    before_word, after_word = (ABSENT if gate is None else gate_word(gate) for gate in (old, new))
    if before_word != after_word:
        yield "", ("gate", before_word, after_word)
    if old is None or new is None:
        return
    before, after = ({j.metric: j for j in gate.judgements} for gate in (old, new))
    for metric in [*after, *(metric for metric in before if metric not in after)]:
        pair = before.get(metric, _NO_VALUES), after.get(metric, _NO_VALUES)
        for change in _of_judgement(*pair):
            yield metric, change


def _of_judgement(old: Judgement, new: Judgement) -> Iterator[Change]:
    if old.verdict != new.verdict:
        yield "verdict", verdict_text(old), verdict_text(new)
    if old.budget != new.budget:
        yield "limit", budget_text(old), budget_text(new)
    if _moved(old, new):
        yield "value", estimate_text(old), estimate_text(new)


def _moved(old: Judgement, new: Judgement) -> bool:
    if old.value is None or new.value is None or old.value == new.value:
        return old.value != new.value
    if old.interval is None or new.interval is None:
        return old.value != new.value
    return not (_holds(old.interval, new.value) or _holds(new.interval, old.value))


def _holds(interval: tuple[float, float], value: float) -> bool:
    return interval[0] <= value <= interval[1]
