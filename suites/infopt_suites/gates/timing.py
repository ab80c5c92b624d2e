"""What gates on time share: their metrics, and the procedure that times pairs of requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from pytest_infopt import GateRun, Judgement, Metric, Rule, Unit, quantiles

from .plans import LatencyPlan

if TYPE_CHECKING:
    from .timing_measure import TimingMeasure

AnyMeasure = TypeVar("AnyMeasure", bound="TimingMeasure")

TIMING_SECONDS = 30.0  # pairs that this does not decide lie near their limit (STATISTICS 2.3)

REQUESTS = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "e2e": "request sent to last token",
}
METRICS = (
    *(
        Metric(f"{stem}_ratio", Unit.RATIO, Rule.SIGN, f"{what}, candidate / reference, median")
        for stem, what in REQUESTS.items()
    ),
    *(
        Metric(
            f"{stem}_mean_ratio",
            Unit.RATIO,
            Rule.LOG_MEAN,
            f"{what}, candidate / reference, geometric mean",
            default_if_decidable=True,
        )
        for stem, what in REQUESTS.items()
    ),
    *quantiles("ttft", Unit.SECONDS, "time to first token", single_valued=True, serial=True),
    *quantiles("tpot", Unit.SECONDS, "time per output token", single_valued=True, serial=True),
    *quantiles("itl", Unit.SECONDS, "inter-token latency", serial=True),
    *quantiles("e2e", Unit.SECONDS, "end-to-end request time", single_valued=True, serial=True),
)


def time_pairs(
    gate: GateRun[AnyMeasure],
    phase: str,
    seconds: float,
    metrics: Sequence[Metric] = METRICS,
    every_metric: bool = False,
    undecided_passes: str = "",
) -> list[Judgement]:
    """Warm up, then time pairs of requests, each in an order drawn by a coin, until decided: one
    metric's FAIL does it, unless ``every_metric`` is asked for; see `GateRun.collect`. What a FAIL
    means is the caller's to say."""
    measure, most = gate.measure, gate.plan(LatencyPlan).max_pairs
    measure.warm_up()
    return gate.collect(
        range(most),
        lambda index: measure.pair(index, gate.coin(index)),
        planned=most,
        seconds=seconds,
        phase=phase,
        metrics=metrics,
        every_metric=every_metric,
        undecided_passes=undecided_passes,
        provisional=True,
    )
