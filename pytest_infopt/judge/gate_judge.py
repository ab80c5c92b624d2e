"""The judge of one gate on one candidate: units in, a judgement per metric out.

PASS of a metric needs evidence at ``alpha_pass``; a release passes when all metrics do, so that
P(release | some truth at its limit or beyond) ≤ alpha_pass without any correction
(intersection-union). FAIL needs evidence at ``alpha_fail`` shared by all metrics (Holm), so that
P(any FAIL | all truths keep their limits) ≤ alpha_fail. Both hold whenever measuring stops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..metrics.budget import Budget
from ..metrics.metric import Metric
from ..results.verdict import Judgement, Verdict
from .multiplicity import holm
from .planning import fewest_documents, fewest_that_count, fewest_to_pass
from .protocol import MetricTest, Value
from .reasons import doubt, harm, kept
from .rules import make_test


class GateJudge:
    """Judges ``metrics`` against ``budgets`` (by metric name; others are estimated only).

    ``planned`` is the most units that may come, ``samples`` what they are called;
    ``identical_outputs_pass`` says that outputs with the same bits pass, however few;
    ``every_metric`` that one metric's FAIL does not decide the others; ``population`` that the
    planned units are all there is, so that limits are about their own mean. The state depends on
    the updates and on nothing else, so that replaying a journal reaches the same judgements bit for
    bit. Raises ValueError for a budget whose metric is not judged here, a budget relative to a
    reference that nobody has put in, error rates that are none, and planned < 1.
    """

    def __init__(
        self,
        metrics: Sequence[Metric],
        budgets: Mapping[str, Budget],
        *,
        alpha_pass: float,
        alpha_fail: float,
        planned: int,
        samples: str = "samples",
        identical_outputs_pass: bool = False,
        every_metric: bool = False,
        undecided_passes: str = "",
        population: bool = False,
    ) -> None:
        _check(metrics, budgets, alpha_pass, alpha_fail, planned)
        self.metrics = list(metrics)
        self.budgets = dict(budgets)
        self.alpha_pass = alpha_pass
        self.alpha_fail = alpha_fail
        self.planned = planned
        self.samples = samples
        self.identical_outputs_pass = identical_outputs_pass
        self.every_metric = every_metric
        self.undecided_passes = undecided_passes
        self.population = population
        limits = {name: budget.limit for name, budget in budgets.items()}
        tests = [make_test(m, limits.get(m.name), planned, population=population) for m in metrics]
        self._tests = {test.metric.name: test for test in tests}
        self._budgeted = [self._tests[name] for name in self._tests if name in budgets]
        counts_from = {n: fewest_that_count(b, alpha_pass) for n, b in budgets.items()}
        alone = population or all(counts_from.values())
        self._counts_from = dict.fromkeys(budgets, 0) if alone else counts_from
        self._identical_enough = fewest_documents(alpha_pass)

    def update(
        self, values: Mapping[str, Value], identical: bool = False, weight: int | None = None
    ) -> None:
        """Take one unit's values by metric name, lists of single values for quantile metrics.

        ``identical`` says that both outputs had the same bits; ``weight`` of how many tokens the
        unit's means are made. Metrics without a value are left as they are.
        """
        for name, value in values.items():
            self._tests[name].update(value, identical, weight)

    @property
    def decided(self) -> bool:
        """Whether further units could not change the gate's verdict: one metric's FAIL decides it.

        Metrics that have not been seen at all do not hold up the others; without any budget nothing
        is ever decided, and everything planned gets measured.
        """
        failed = self._failed()
        if failed and not self.every_metric:
            return True
        seen = any(test.units for test in self._budgeted)
        return seen and failed.issuperset(self.undecided)

    @property
    def undecided(self) -> list[str]:
        """The metrics with a budget that have been seen and not passed yet, but for those whose
        limits do not count before there are more units (`fewest_that_count`): these hold up nobody
        but themselves."""
        return [
            test.metric.name
            for test in self._budgeted
            if test.units >= max(1, self._counts_from[test.metric.name])
            and test.p_pass > self.alpha_pass
            and not self._same(test, False)
        ]

    def judgements(self, exhausted: bool) -> list[Judgement]:
        """One per metric, in the metrics' order.

        ``exhausted`` says that no further unit will come (all have, or time is up): outputs that
        were identical so far then pass however few they are.
        """
        failed = self._failed()
        return [self._judgement(test, failed, exhausted) for test in self._tests.values()]

    def state(self) -> dict[str, list[float]]:
        """Per metric, every number that later updates depend on."""
        return {name: test.state() for name, test in self._tests.items()}

    def _failed(self) -> set[str]:
        """Metrics with evidence of harm. Limits that hold for every value cannot fail by chance, so
        they take no part of the error rate."""
        certain = {t.metric.name for t in self._budgeted if not t.statistical and t.p_fail == 0}
        chance = {t.metric.name: t.p_fail for t in self._budgeted if t.statistical}
        if not chance or min(chance.values()) > self.alpha_fail:
            return certain
        return certain | holm(chance, self.alpha_fail)

    def _same(self, test: MetricTest, exhausted: bool) -> bool:
        """Whether the test passes because the outputs had the same bits throughout."""
        return (
            test.identical
            and self.identical_outputs_pass
            and not test.metric.self_comparison
            and test.units >= (1 if exhausted else self._identical_enough)
        )

    def _judgement(self, test: MetricTest, failed: set[str], exhausted: bool) -> Judgement:
        name = test.metric.name
        budget = self.budgets.get(name)
        limit = None if budget is None else budget.limit
        if not test.units:
            verdict = None if budget is None else Verdict.INCONCLUSIVE
            reason = "not measured by this engine"
            return Judgement(name, None, 0, 0, verdict, limit, reason=reason)
        verdict, reason = (
            (None, "") if budget is None else self._verdict(test, budget, failed, exhausted)
        )
        undecided = verdict is Verdict.INCONCLUSIVE and not failed
        details = test.details()
        if budget is not None and test.statistical:
            details |= {"p_pass": test.p_pass, "p_fail": test.p_fail}
        if verdict is Verdict.FAIL and test.p_pass <= self.alpha_pass:
            details["conflict"] = "the evidence for PASS had crossed its threshold too; FAIL counts"
        interval = test.interval(2 * self.alpha_pass)
        if interval is not None:
            details["confidence"] = 1 - 2 * self.alpha_pass
        return Judgement(
            name,
            test.estimate,
            test.n,
            test.units,
            verdict,
            limit,
            interval,
            reason,
            self._needed(test, budget) if undecided and budget is not None else None,
            None if budget is None else test.detectable(self._fail_level()),
            details,
        )

    def _needed(self, test: MetricTest, budget: Budget) -> int | None:
        """About how many more units would decide; so few that nothing could be decided yet need
        at least as many as the best of candidates takes."""
        seen = test.needed(self.alpha_pass, self._fail_level())
        if seen is None and test.statistical:
            size = round(test.n / test.units)
            missing = fewest_to_pass(budget, self.alpha_pass, size) - test.units
            return missing if missing > 0 else None
        return seen

    def _fail_level(self) -> float:
        """What Holm asks of the first metric to fail."""
        return self.alpha_fail / max(1, self._family)

    @property
    def _family(self) -> int:
        """How many metrics share the error rate of FAIL."""
        return sum(test.statistical for test in self._budgeted)

    def _verdict(
        self, test: MetricTest, budget: Budget, failed: set[str], exhausted: bool
    ) -> tuple[Verdict, str]:
        if self._same(test, exhausted):
            return Verdict.PASS, "identical outputs"
        if test.metric.name in failed:
            return Verdict.FAIL, harm(test, budget, self._family)
        if test.p_pass <= self.alpha_pass:
            return Verdict.PASS, kept(test, budget)
        if self.undecided_passes:
            return Verdict.PASS, self.undecided_passes
        needed = self._needed(test, budget)
        return Verdict.INCONCLUSIVE, doubt(test, budget, failed, needed, self.samples)


def _check(
    metrics: Sequence[Metric],
    budgets: Mapping[str, Budget],
    alpha_pass: float,
    alpha_fail: float,
    planned: int,
) -> None:
    if planned < 1:
        raise ValueError(f"planned {planned!r} units: a gate needs at least one")
    for name, alpha in (("alpha_pass", alpha_pass), ("alpha_fail", alpha_fail)):
        if not 0 < alpha < 0.5:
            raise ValueError(f"{name} {alpha!r}: an error rate lies between 0 and 0.5")
    unknown = sorted(set(budgets) - {metric.name for metric in metrics})
    if unknown:
        raise ValueError(f"budgets on {', '.join(unknown)}: not among the metrics to be judged")
    for budget in budgets.values():
        if budget.relative:
            raise ValueError(
                f"budget {budget.describe()} on {budget.metric.name}: multiply it by the "
                "reference's value before judging"
            )
