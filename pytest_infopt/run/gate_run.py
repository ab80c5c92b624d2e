"""One gate on one candidate: collects samples, stops when they decide, says what came out.

The gate modules of ``infopt_suites.gates`` receive a `GateRun` and read like the procedure they
are; journalling, resuming, judging and the failure message are here.
"""

from __future__ import annotations

import random
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, TypeVar

import pytest

from ..judge.gate_judge import GateJudge
from ..metrics.budget import Budget
from ..metrics.metric import Gate, Metric, Rule, metrics_of
from ..results.gate_result import GateResult
from ..results.sample import Sample, TokenFinding
from ..results.verdict import Judgement, Verdict

if TYPE_CHECKING:
    from ..process.client import BenchClient
    from ..release import Candidate, Release
    from .session import InfoptSession

Unit = TypeVar("Unit")
_FINDINGS = 3  # worst tokens that a failure shows


class GateRun:
    """What a gate test works with: the candidate's bench, its samples, and the judgements."""

    def __init__(self, gate: Gate, candidate: Candidate, session: InfoptSession) -> None:
        self.gate = gate
        self.candidate = candidate
        self.session = session
        self.release: Release = session.release
        self.judgements: list[Judgement] = []
        self.samples: list[Sample] = []
        self.notes: list[str] = []
        self.details: dict[str, object] = {}
        self.fault: str | None = None  # set by a gate that finds the harness itself at fault
        self._findings: list[TokenFinding] = []
        self._started = time.monotonic()

    @property
    def budgets(self) -> Mapping[str, Budget]:
        """This gate's limits; a committed baseline may tighten them once the device is known."""
        return self.session.budgets_for(self.candidate, self.gate)

    @property
    def bench(self) -> BenchClient:
        """Both models in their own process, loaded and found comparable."""
        return self.session.bench(self.candidate)

    def coin(self, index: int) -> bool:
        """The index-th fair coin of this candidate, decided by the seed."""
        seed = f"{self.release.statistics.seed}:{self.candidate.name}:{index}"
        return random.Random(seed).random() < 0.5

    def collect(
        self,
        units: Iterable[Unit],
        measure: Callable[[Unit], Sample],
        *,
        planned: int,
        seconds: float | None = None,
        phase: str = "main",
        metrics: Sequence[Metric] | None = None,
        budgets: Mapping[str, Budget] | None = None,
        alpha: float | None = None,
    ) -> list[Judgement]:
        """Measure unit after unit until the budgets are decided, units run out, or time is up.

        ``planned`` is the most samples that may come; ``phase`` tells several collections of one
        gate apart; ``metrics`` are those that this one is for, with their budgets; ``alpha`` takes
        the place of the release's error rates. Samples that an interrupted run left in the journal
        are taken from there, in the same order, so that a resumed run reaches the verdict of an
        uninterrupted one.
        """
        judged = metrics_of(self.gate) if metrics is None else metrics
        if budgets is None:
            names = {metric.name for metric in judged}
            budgets = {name: b for name, b in self.budgets.items() if name in names}
        judge = self._judge(planned, judged, budgets, alpha)
        earlier = self.session.journalled(self.gate, self.candidate.name, phase)
        deadline = None if seconds is None else time.monotonic() + seconds
        for index, unit in enumerate(units):
            if index < len(earlier):
                sample = earlier[index]
            elif deadline is not None and time.monotonic() > deadline:
                self.notes.append(f"stopped after {seconds:g} s (statistics.budget_seconds)")
                break
            else:
                sample = measure(unit)
                journal = self.session.journal
                journal.write_sample(self.gate, self.candidate.name, phase, index, sample)
            self.samples.append(sample)
            self._findings.extend(sample.findings)
            judge.update(sample_values(sample, judge.metrics), sample.identical, sample.weight)
            self.session.progress(self, index + 1, planned)
            if judge.decided:
                break
        found = judge.judgements(exhausted=not judge.decided)
        self.judgements = [j for j in found if j.n or j.verdict is not None]
        return self.judgements

    def time_pairs(
        self, phase: str, seconds: float, metrics: Sequence[Metric] | None = None
    ) -> list[Judgement]:
        """Warm up, then time pairs of requests, each in an order drawn by a coin, until decided."""
        bench = self.bench
        bench.warm_up()
        most = self.release.latency.max_pairs
        return self.collect(
            range(most),
            lambda index: bench.measure_pair(index, self.coin(index)),
            planned=most,
            seconds=seconds,
            phase=phase,
            metrics=metrics,
        )

    def show(self, table: Mapping[str, object]) -> None:
        """Put a `measure.growth.MeasuredTable`, as its dictionary, into the reports."""
        tables = self.details.setdefault("tables", [])
        assert isinstance(tables, list)
        tables.append(dict(table))

    def show_samples(self, *details: str) -> None:
        """Put the tables that samples carry, and these of their details, into the reports."""
        for sample in self.samples:
            for table in sample.details.get("tables", ()):
                self.show(table)
        for name in details:
            found = {s.unit: s.details[name] for s in self.samples if name in s.details}
            if found:
                self.details[name] = found

    def conclude(self) -> None:
        """Store the result; fail the pytest item unless it passed or the policy lets it be."""
        if self.samples and all(sample.identical for sample in self.samples):
            self.notes.insert(0, "identical outputs")
        worst = sorted(self._findings, key=lambda finding: finding.kl, reverse=True)[:_FINDINGS]
        self._finish(
            [self.session.ratchet.check(self.candidate, j) for j in self.judgements],
            [asdict(finding) for finding in worst],
        )

    def abstain(self, reason: str) -> None:
        """Conclude without evidence: the comparison is not valid, so nothing is said of it."""
        self._finish(
            [
                Judgement(name, None, 0, 0, Verdict.INCONCLUSIVE, budget.limit, reason=reason)
                for name, budget in self.budgets.items()
            ],
            [],
        )

    def error(self, message: str) -> GateResult:
        """The result of a gate whose measuring broke: no statement about the candidate."""
        self.fault = message
        return self._result([], [])

    def _judge(
        self,
        planned: int,
        metrics: Sequence[Metric],
        budgets: Mapping[str, Budget],
        alpha: float | None,
    ) -> GateJudge:
        statistics = self.release.statistics
        # The error rate of FAIL belongs to the candidate: each gate gets its metrics' share.
        share = len(self.budgets) / max(1, len(self.candidate.budgets))
        return GateJudge(
            metrics,
            budgets,
            alpha_pass=statistics.alpha_pass if alpha is None else alpha,
            alpha_fail=(statistics.alpha_fail if alpha is None else alpha) * share,
            planned=planned,
        )

    def _finish(self, judgements: list[Judgement], findings: list[dict[str, object]]) -> None:
        __tracebackhide__ = True
        result = self._result(judgements, findings)
        self.session.finish(result)
        raise_unless_passed(result, self.release.statistics.policy)

    def _result(self, judgements: list[Judgement], findings: list[dict[str, object]]) -> GateResult:
        return GateResult(
            gate=self.gate,
            candidate=self.candidate.name,
            seconds=time.monotonic() - self._started,
            judgements=judgements,
            notes=self.notes,
            findings=findings,
            reproduce=self._reproduce(),
            details=self.details,
            error=self.fault,
        )

    def _reproduce(self) -> str:
        name = self.gate.replace("-", "_")
        where = f"infopt_suites.gates.test_gate_{name}::test_{name}[{self.candidate.name}]"
        seed = f"--infopt-seed={self.release.statistics.seed}"
        return shlex.join(
            ["pytest", "--infopt", *self.session.source_arguments, seed, "--pyargs", where]
        )


def raise_unless_passed(result: GateResult, policy: str) -> None:
    """Turn a gate's verdict into the pytest item's own outcome."""
    from ..report.terminal import failure_message

    __tracebackhide__ = True
    if result.verdict is Verdict.PASS:
        return
    if result.verdict is Verdict.INCONCLUSIVE and policy == "warn":
        return
    pytest.fail(failure_message(result), pytrace=False)


def sample_values(sample: Sample, metrics: Iterable[Metric]) -> dict[str, float | Sequence[float]]:
    """What the judge is told of a sample: single numbers, and value lists for quantile metrics."""
    values: dict[str, float | Sequence[float]] = {}
    for metric in metrics:
        stem = metric.name.rpartition("_")[0]
        if metric.rule is Rule.EXCEEDANCE:
            if stem in sample.tokens:
                values[metric.name] = sample.tokens[stem]
        elif metric.name in sample.values:
            values[metric.name] = sample.values[metric.name]
    return values


def against_reference(budgets: Mapping[str, Budget], reference: Sample) -> dict[str, Budget]:
    """Limits written as a share of the reference's bytes, in bytes."""
    return {
        name: replace(budget, limit=budget.limit * reference.values[name], relative=False)
        if budget.relative and name in reference.values
        else budget
        for name, budget in budgets.items()
    }


def confirmed(first: Sequence[Judgement], second: Sequence[Judgement]) -> list[Judgement]:
    """The first judgements, where a FAIL stands only if the second, independent ones fail too."""
    again = {judgement.metric: judgement for judgement in second}
    return [_confirmed(j, again[j.metric]) if j.verdict is Verdict.FAIL else j for j in first]


def _confirmed(first: Judgement, second: Judgement) -> Judgement:
    if second.verdict is Verdict.FAIL:
        return replace(first, reason="confirmed by models loaded anew")
    return replace(
        first,
        verdict=Verdict.INCONCLUSIVE,
        reason=f"FAIL not confirmed by models loaded anew (there {second.verdict}, {second.value})",
    )
