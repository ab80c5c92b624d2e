"""Stability: the same pass gives the same bits, at once and at the end of the session."""

from dataclasses import dataclass

from pytest_infopt import BudgetContext, Capability, GateSpec, Metric, Plan, Rule, Unit, setting


@dataclass(frozen=True)
class StabilityPlan(Plan):
    """How often one pass is repeated, once all other gates have used the candidate."""

    repeats: int = setting(64, "Most repetitions of the pass.", ge=2)
    seconds: float = setting(
        1.0, "Repetitions begin within this time; two are made however slow they are.", gt=0
    )


METRICS = (
    Metric(
        "repeat_differences",
        Unit.COUNT,
        Rule.WORST,
        "positions whose logits have other bits when the same pass is made again",
        self_comparison=True,
    ),
    Metric(
        "session_differences",
        Unit.COUNT,
        Rule.WORST,
        "positions whose logits no longer have the bits of the session's first pass",
        self_comparison=True,
    ),
)


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """Nothing may differ: it is the same pass."""
    return {metric.name: 0.0 for metric in METRICS}


GATE = GateSpec(
    package=__package__,
    name="stability",
    summary="The candidate computes the same after a session of requests as before it.",
    order=90,
    samples="readings",
    plans=(StabilityPlan,),
    requires=frozenset({Capability.FULL_LOGITS}),
    default_budgets=default_budgets,
    metrics=METRICS,
)
