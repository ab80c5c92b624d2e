"""Every verdict of a run once more, from the samples that it stored; nothing is measured.

A judgement is right if one of the gate's collections comes to the same. A gate may hold a decided
one back as INCONCLUSIVE, because the machine could not time or a FAIL was not confirmed; that is
told, and no error. What no sample speaks for is one. Whether samples are what was measured, nobody
can tell from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..conformance.results import CONFORMANCE
from ..errors import InfoptError
from ..judge.terms import judge_of
from ..results.gate_result import GateResult
from ..results.sample import Sample
from ..results.verdict import Judgement, Verdict
from ..run.judging import judgements_of, take
from ..store.journal import RunRecords
from .runs import FinishedRun

_CLOSE = 1e-9  # relative: another machine's logarithm may differ in its last bits


class UnverifiableRunError(InfoptError):
    """A run that left nothing to judge again."""


@dataclass
class Verification:
    """What came of it: sentences on judgements that differ, or were held back."""

    judgements: int = 0
    samples: int = 0
    properties: int = 0
    held_back: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.differences

    def lines(self) -> Iterator[str]:
        """What a person reads, the outcome last."""
        yield from (f"held back: {sentence}" for sentence in self.held_back)
        yield from (f"differs: {sentence}" for sentence in self.differences)
        if self.properties:
            yield f"{self.properties} properties of implementations keep no samples: not judged"
        outcome = f"{len(self.differences)} differ" if self.differences else "all as written"
        yield f"{self.judgements} judgements from {self.samples} samples: {outcome}"


def verify(run: FinishedRun) -> Verification:
    """Judge the samples in the run's journals anew, and compare with its result.

    Raises UnverifiableRunError where something was measured and the journals hold no terms of
    judgement.
    """
    records = RunRecords.read(run.directory)
    gates = [gate for gate in run.result.gates if gate.gate != CONFORMANCE]
    judged = {(gate, candidate) for gate, candidate, _ in records.collections()}
    if not judged and any(judgement.n for gate in gates for judgement in gate.judgements):
        raise UnverifiableRunError(
            f"{run.directory}: its journals hold no terms of judgement; they were moved away, or "
            f"written by a version of pytest-infopt before them ({run.result.version})"
        )
    found = Verification(properties=len(run.result.gates) - len(gates))
    for gate in gates:
        _verify_gate(gate, records, found)
    for name, candidate in sorted(judged - {(gate.gate, gate.candidate) for gate in gates}):
        found.differences.append(f"{name} of {candidate}: was judged, and the result lacks it")
    return found


def _verify_gate(gate: GateResult, records: RunRecords, found: Verification) -> None:
    again = _judged_again(gate, records, found)
    for judgement in gate.judgements:
        found.judgements += 1
        where = f"{gate.gate} of {gate.candidate}, {judgement.metric}"
        others = again.pop(judgement.metric, [])
        if any(_same(judgement, other) for other in others):
            continue
        if judgement.verdict is Verdict.INCONCLUSIVE and (others or not judgement.n):
            found.held_back.append(f"{where}: {judgement.reason}")
        elif judgement.n or judgement.verdict is not None:
            made = " or ".join(map(_told, others)) or "no sample speaks of it"
            found.differences.append(f"{where}: {_told(judgement)} is written; {made}")
    for metric, others in again.items():
        if gate.error is None and any(other.verdict is not None for other in others):
            made = " or ".join(map(_told, others))
            found.differences.append(f"{gate.gate} of {gate.candidate}, {metric}: {made}; left out")


def _judged_again(
    gate: GateResult, records: RunRecords, found: Verification
) -> dict[str, list[Judgement]]:
    """By metric, what each collection of the gate comes to."""
    again: dict[str, list[Judgement]] = {}
    before: list[Sample] = []
    for (name, candidate, phase), terms in records.collections().items():
        if (name, candidate) != (gate.gate, gate.candidate):
            continue
        judge, samples = judge_of(terms), records.samples(name, candidate, phase)
        for sample in samples:
            take(judge, sample)
        before += samples
        for judgement in judgements_of(judge, before):
            again.setdefault(judgement.metric, []).append(judgement)
    found.samples += len(before)
    return again


def _same(written: Judgement, made: Judgement) -> bool:
    counts = (written.verdict, written.n, written.units) == (made.verdict, made.n, made.units)
    numbers = (
        (written.value, made.value),
        (written.budget, made.budget),
        *zip(written.interval or (), made.interval or (), strict=False),
    )
    return counts and all(_close(a, b) for a, b in numbers)


def _close(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=_CLOSE) or (math.isnan(a) and math.isnan(b))


def _told(judgement: Judgement) -> str:
    verdict = judgement.verdict or "an estimate"
    return f"{verdict} at {judgement.value} of {judgement.units}"
