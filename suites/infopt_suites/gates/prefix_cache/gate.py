"""The prefix cache: outputs behind a cached beginning, and what it saves."""

from pytest_infopt import BudgetContext, Capability, GateSpec, Metric, Rule, Unit

from ..plans import CachesPlan, EquivalencePlan, LatencyPlan, one_document_a_prompt
from ..self_comparisons import ERROR_RATIO, error_ratio, mismatches

_CACHES_AT_ALL = 0.01  # of a prompt asked again


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """In any format, a cached beginning changes nothing beyond rounding, and whatever can be kept
    is. A server gives no logits, and caches blocks of a size that it keeps to itself: that it
    caches at all is what is asked of it."""
    mismatches = {"prefix_greedy_mismatches": 0.0}
    if context.served:
        return {**mismatches, "prefix_saved_share": _CACHES_AT_ALL}
    return {"prefix_error_ratio": ERROR_RATIO, **mismatches, "prefix_saved_share": 1.0}


GATE = GateSpec(
    package=__package__,
    name="prefix-cache",
    summary="A cached beginning leaves the outputs alone, and saves what it can.",
    order=50,
    samples="prompts",
    plans=(EquivalencePlan, CachesPlan, LatencyPlan),
    requires=frozenset({Capability.FULL_LOGITS, Capability.MODULES}),
    default_budgets=default_budgets,
    fewest_documents=one_document_a_prompt,
    metrics=(
        error_ratio(
            "prefix_error_ratio",
            "logits behind a cached prefix against the plain pass / the dtype's own error",
        ),
        mismatches(
            "prefix_greedy_mismatches",
            "greedy tokens that a cached prefix changes where there is no near-tie",
        ),
        Metric(
            "prefix_saved_share",
            Unit.SHARE,
            Rule.WORST,
            "tokens of a repeated prompt that were not computed again, of those in full blocks",
            higher_is_better=True,
        ),
    ),
)
