"""One gate on one candidate: collects samples, stops when they decide, says what came out.

The procedures of gates receive a `GateRun` and read like the procedure they are; journalling,
resuming, judging and the failure message are here.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ..gates.base import GateSpec
from ..judge.gate_judge import GateJudge
from ..judge.terms import terms_of
from ..metrics.budget import Budget
from ..metrics.metric import Metric
from ..release import AnyPlan, Candidate, Release
from ..results.gate_result import GateResult
from ..results.sample import Sample
from ..results.verdict import Judgement
from .diagnosis import diagnose
from .gate_record import GateRecord
from .judging import judgements_of, make_judge, take
from .time_budget import TimeBudget

if TYPE_CHECKING:
    from .session import InfoptSession

Unit = TypeVar("Unit")
Value = TypeVar("Value")
AnyMeasure = TypeVar("AnyMeasure")
_FINDINGS = 3  # worst tokens that a failure shows


class GateRun(GateRecord, Generic[AnyMeasure]):
    """What a gate's procedure works with: its measure, its samples, and the judgements.

    ``AnyMeasure`` is the class of the gate's measure. It lives in the process of the models; for
    type checkers, `measure` is the object itself.
    """

    def __init__(self, spec: GateSpec, candidate: Candidate, session: InfoptSession) -> None:
        super().__init__()
        self.spec = spec
        self.candidate = candidate
        self.release: Release = session.release
        self.fault: str | None = None  # set by a gate that finds the harness itself at fault
        self.noise = session.noise  # what this machine shows with nothing changed
        self._session = session
        self._started = time.monotonic()
        self._time = TimeBudget()

    def plan(self, kind: type[AnyPlan]) -> AnyPlan:
        """The release's plan of that class."""
        return self.release.plan(kind)

    @property
    def budgets(self) -> Mapping[str, Budget]:
        """This gate's limits; a committed baseline may tighten them once the device is known."""
        return self._session.budgets_for(self.candidate, self.spec)

    @property
    def measure(self) -> AnyMeasure:
        """The gate's measure beside both models, which are loaded and found comparable."""
        client = self._session.models.of(self.candidate, self.spec)
        self.note(self._session.descriptions.get(self.candidate.name, {}).get("notes", ()))
        return cast(AnyMeasure, client.proxy(self.spec.measure_target))

    @contextmanager
    def fresh_process(self) -> Iterator[AnyMeasure]:
        """The measure in a process of its own, where nothing is loaded yet."""
        with self._session.models.fresh(self.candidate) as client:
            yield cast(AnyMeasure, client.proxy(self.spec.measure_target))

    def once(self, name: str, compute: Callable[[], Value]) -> Value:
        """What a gate needs once in a run, for all candidates; computed when first asked for."""
        kept = self._session.kept
        if (self.spec.name, name) not in kept:
            kept[(self.spec.name, name)] = compute()
        return cast(Value, kept[(self.spec.name, name)])

    def reload_models(self) -> None:
        """Load the same models anew, in a new process."""
        self._session.models.of(self.candidate, self.spec).restart()

    def coin(self, index: int) -> bool:
        """The index-th fair coin of this candidate, decided by the seed."""
        seed = f"{self.release.statistics.seed}:{self.candidate.name}:{index}"
        return random.Random(seed).random() < 0.5

    @property
    def timing_distrust(self) -> str:
        """Why this process cannot time, or the empty string."""
        return self._session.timing_distrust()

    def distrust_timing(self, reason: str) -> None:
        """Whatever this session times from now on does not count."""
        self._session.distrust = reason

    @property
    def seconds(self) -> float:
        """Measuring time of this gate: what the release grants, else the gate's own."""
        return self.release.statistics.budget_seconds or self.spec.budget_seconds

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
        every_metric: bool = False,
        undecided_passes: str = "",
        error_share: float = 1.0,
        provisional: bool = False,
    ) -> list[Judgement]:
        """Measure unit after unit until the gate is decided, units run out, or time is up.

        ``planned`` is the most samples that may come; ``seconds`` the time for this collection, by
        default what is left of the gate's, which begins with its first. The first unit is measured
        however late it is. ``phase`` tells several collections of one gate apart; ``metrics`` are
        those that this one is for, with their budgets; ``every_metric`` goes on after one has
        failed; ``undecided_passes`` is why what is not FAIL passes, where that is enough;
        ``error_share`` is its part of FAIL's error rate, where several judge the same metrics;
        ``provisional`` that a FAIL is not the gate's until the procedure says so: any other stands,
        whatever breaks later. A resumed run takes samples from the journal, and reaches the verdict
        of a whole one.
        """
        judged = self.spec.metrics if metrics is None else metrics
        judge = self._judge(
            judged,
            budgets,
            planned=planned,
            every_metric=every_metric,
            undecided_passes=undecided_passes,
            error_share=error_share,
        )
        named = self.spec.name, self.candidate.name, phase
        journal = self._session.journal
        journal.write_collection(*named, terms_of(judge))
        earlier = self._session.earlier.samples(*named)
        deadline = self._time.deadline(self.seconds, seconds)
        show = partial(self._session.show_progress, f"{self.candidate.name} {self.spec.name}")
        show(0, planned, list(judge.budgets), deadline)
        try:
            for index, unit in enumerate(units):
                if index < len(earlier):
                    sample = earlier[index]
                elif index and time.monotonic() > deadline:
                    granted = self.seconds if seconds is None else seconds
                    self.notes.append(f"stopped after {granted:g} s (statistics.budget_seconds)")
                    break
                else:
                    sample = measure(unit)
                    journal.write_sample(*named, index, sample)
                self.add(sample)
                take(judge, sample)
                show(index + 1, planned, judge.undecided, deadline)
                if judge.decided and self.release.statistics.stop_when_decided:
                    break
        finally:
            self.settle(judgements_of(judge, self.samples), stands=not provisional)
        return self.judgements

    def conclude(self) -> None:
        """Store the result; fail the pytest item unless it passed or the policy lets it be."""
        if self.samples and all(sample.identical for sample in self.samples):
            self.notes.insert(0, "identical outputs")
        worst = self.worst_findings(_FINDINGS)
        checked = [self.noise.check(self.candidate, j, self.budgets) for j in self.judgements]
        diagnose(self, self.spec, self.candidate, self._session, checked, worst)
        self._session.conclude(self._result(checked))

    def abstain(self, reason: str) -> None:
        """Conclude without evidence, but of what had failed before: the comparison is not valid."""
        self._session.conclude(self._result(self.undecided(self.budgets, reason)))

    def not_run(self, reason: str) -> None:
        """Conclude without having measured: an engine lacks what the gate requires."""
        self._session.conclude(
            replace(self._result(self.undecided(self.budgets, reason)), not_run=reason)
        )

    def error(self, message: str) -> None:
        """Store that measuring broke: no statement about the candidate beyond what had failed."""
        self.fault = message
        self._session.finish(self._result(list(self.failures.values())))

    def _judge(
        self, metrics: Sequence[Metric], budgets: Mapping[str, Budget] | None, **terms: Any
    ) -> GateJudge:
        if budgets is None:
            budgets = {m.name: self.budgets[m.name] for m in metrics if m.name in self.budgets}
        limits = self._session.budgets_of(self.candidate).values()
        statistics = self.release.statistics
        terms["population"] = self.spec.population(self.release)
        judge, estimated = make_judge(self.spec, statistics, metrics, budgets, limits, **terms)
        self.note(estimated)
        return judge

    def _result(self, judgements: list[Judgement]) -> GateResult:
        return GateResult(
            gate=self.spec.name,
            candidate=self.candidate.name,
            seconds=time.monotonic() - self._started,
            judgements=judgements,
            notes=self.notes,
            findings=[asdict(finding) for finding in self.worst_findings(_FINDINGS)],
            reproduce=self._session.command_for(self.spec, self.candidate),
            details=self.details,
            error=self.fault,
        )
