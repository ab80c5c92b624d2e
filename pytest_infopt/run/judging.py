"""The judge of one collection: its limits and error rates, what it is told, what it says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..gates.base import GateSpec
from ..judge.gate_judge import GateJudge
from ..judge.planning import spared
from ..judge.rules import fails_by_chance
from ..metrics.budget import Budget
from ..metrics.metric import Metric, Rule
from ..release import Statistics
from ..results.sample import Sample
from ..results.verdict import Judgement, Verdict


def make_judge(
    spec: GateSpec,
    statistics: Statistics,
    metrics: Sequence[Metric],
    budgets: Mapping[str, Budget],
    of_the_candidate: Iterable[Budget],
    *,
    planned: int,
    every_metric: bool,
    undecided_passes: str = "",
    error_share: float = 1.0,
    population: bool = False,
) -> tuple[GateJudge, list[str]]:
    """The judge of ``metrics`` on ``planned`` samples at most, and why it leaves out the default
    limits that so few cannot decide.

    The error rate of FAIL is that of ``of_the_candidate``, all limits of a candidate: each that can
    fail by chance has the same part of it, in whichever collection it is judged. Limits that hold
    for every value take none. ``error_share`` is the part of it that goes to this collection, where
    several judge the same metrics.
    """
    alpha_pass = statistics.alpha_pass if spec.alpha is None else spec.alpha
    alpha_fail = statistics.alpha_fail if spec.alpha is None else spec.alpha
    estimated = {
        name: "" if population else spared(b, alpha_pass, planned) for name, b in budgets.items()
    }
    budgets = {name: budget for name, budget in budgets.items() if not estimated[name]}
    ours = sum(map(fails_by_chance, budgets.values()))
    share = min(1.0, ours / max(1, sum(map(fails_by_chance, of_the_candidate)))) or 1.0
    judge = GateJudge(
        metrics,
        budgets,
        alpha_pass=alpha_pass,
        alpha_fail=alpha_fail * share * error_share,
        planned=planned,
        samples=spec.samples,
        identical_outputs_pass=spec.identical_outputs_pass,
        every_metric=every_metric,
        undecided_passes=undecided_passes,
        population=population,
    )
    return judge, [reason for reason in estimated.values() if reason]


def take(judge: GateJudge, sample: Sample) -> None:
    """Let the judge know a sample: single numbers, and lists of values for quantiles."""
    values: dict[str, float | Sequence[float]] = {}
    for metric in judge.metrics:
        stem = metric.name.rpartition("_")[0]
        if metric.rule is Rule.EXCEEDANCE:
            if stem in sample.tokens:
                values[metric.name] = sample.tokens[stem]
        elif metric.rule is Rule.PAIRED:
            if Rule.PAIRED in sample.tokens:
                values[metric.name] = sample.tokens[Rule.PAIRED]
        elif metric.name in sample.values:
            values[metric.name] = sample.values[metric.name]
    judge.update(values, sample.identical, sample.weight)


def judgements_of(judge: GateJudge, samples: Iterable[Sample]) -> list[Judgement]:
    """What the judge came to. Of a metric that samples say they cannot tell there is no judgement
    by default, and none that passes where somebody wrote a limit; of a default for which time was
    too short, an estimate."""
    told = {k: v for s in samples for k, v in s.details.get("not_judged", {}).items()}
    rows = judge.judgements(exhausted=not judge.decided)
    failed = any(row.verdict is Verdict.FAIL for row in rows)
    found = []
    for row in rows:
        budget = judge.budgets.get(row.metric)
        if not row.n and (reason := told.get(row.metric)):
            verdict = None if budget is None or budget.is_default else row.verdict
            row = replace(row, verdict=verdict, reason=reason)
        elif row.n and budget is not None and row.verdict is Verdict.INCONCLUSIVE and not failed:
            reason = "" if judge.population else spared(budget, judge.alpha_pass, row.units)
            if reason:
                row = replace(row, verdict=None, budget=None, needed=None, reason=reason)
        found.append(row)
    return [row for row in found if row.n or row.verdict is not None]
