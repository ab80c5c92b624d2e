"""Long contexts: a sample is one text at one length."""

from dataclasses import dataclass

from pytest_infopt import (
    BudgetContext,
    Capability,
    GateSpec,
    Metric,
    Plan,
    Rule,
    Unit,
    rising,
    setting,
)

from ..plans import EquivalencePlan
from ..self_comparisons import ERROR_RATIO, error_ratio


@dataclass(frozen=True)
class LongContextPlan(Plan):
    """The sweep: ``texts`` texts of each of ``lengths``, compared on their last ``tail`` tokens."""

    lengths: tuple[int, ...] = setting(
        (),
        "Lengths of the sweep in tokens, rising; without lengths the gate does not run.",
        each={"ge": 2},
        check=rising,
    )
    texts: int = setting(1, "Texts of each length.", ge=1)
    tail: int = setting(32, "Positions compared at a text's end.", ge=1)


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """Of a single text, twice what is granted the mean over many; through the cache, as much as on
    a short prompt."""
    limits = {"long_context_error_ratio": ERROR_RATIO}
    if "kl_mean" in context.budgets:
        limits["long_context_kl"] = 2 * context.budgets["kl_mean"].limit
    return limits


GATE = GateSpec(
    package=__package__,
    name="long-context",
    summary="The candidate keeps to the reference, and to itself, as texts get longer.",
    order=60,
    samples="texts",
    plans=(LongContextPlan, EquivalencePlan),
    switch=(LongContextPlan, "lengths"),
    requires=frozenset({Capability.SCORES, Capability.CACHE}),
    default_budgets=default_budgets,
    metrics=(
        Metric(
            "long_context_kl",
            Unit.NATS,
            Rule.WORST,
            "largest mean KL(reference ‖ candidate) at the end of a text, over the swept lengths",
        ),
        error_ratio(
            "long_context_error_ratio",
            "last logits through the KV cache against those without / the dtype's own error",
        ),
    ),
)
