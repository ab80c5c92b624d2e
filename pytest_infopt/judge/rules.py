"""Which test each rule of a metric names."""

from __future__ import annotations

from ..metrics.budget import Budget
from ..metrics.metric import Metric, Rule, Unit
from .exceedance import ExceedanceTest
from .log_mean import LogMeanTest
from .mean import MeanTest
from .population import RULES, PopulationTest
from .protocol import MetricTest
from .sign import SignTest
from .worst import ExactTest, WorstTest


def fails_by_chance(budget: Budget) -> bool:
    """Whether FAIL of this limit can be wrong by chance, so that it shares an error rate."""
    return make_test(budget.metric, budget.limit, planned=1).statistical


def make_test(
    metric: Metric, limit: float | None, planned: int, *, population: bool = False
) -> MetricTest:
    """The test that the metric's rule names; of a ``population``, what the ``planned`` units
    themselves come to. Raises ValueError for a rule that does not fit."""
    if population and limit is not None and metric.rule in RULES:
        return PopulationTest(metric, limit, planned, make_test(metric, limit, planned))
    directed = metric.rule in (Rule.MEAN, Rule.EXCEEDANCE) and metric.higher_is_better
    if directed and not (metric.rule is Rule.MEAN and metric.unit is Unit.SHARE):
        raise ValueError(
            f"{metric.name}: rule {metric.rule} needs values that should be small, or a share"
        )
    match metric.rule:
        case Rule.MEAN:
            return MeanTest(metric, limit, planned)
        case Rule.SIGN:
            return SignTest(metric, limit)
        case Rule.LOG_MEAN:
            return LogMeanTest(metric, limit)
        case Rule.EXCEEDANCE:
            return ExceedanceTest(metric, limit)
        case Rule.WORST:
            return WorstTest(metric, limit, planned)
        case Rule.EXACT:
            return ExactTest(metric, limit, planned)
        case Rule.PROPORTION:
            from .proportion import ProportionTest  # brings numpy, which the other rules do without

            return ProportionTest(metric, limit, planned)
        case Rule.PAIRED:
            from .paired import PairedTest  # numpy, too

            return PairedTest(metric, limit, planned)
