"""The prefix cache: outputs behind a cached beginning, and what it saves."""

from pytest_infopt import BudgetContext, Capability, GateSpec, Metric, Rule, Unit

from ..plans import CachesPlan, EquivalencePlan, one_document_a_prompt
from ..self_comparisons import error_ratio, limits, mismatches, same_shape

OUTPUTS = (
    error_ratio(
        "prefix_error_ratio",
        "logits behind a cached prefix against the plain pass / the dtype's own error",
    ),
    mismatches(
        "prefix_greedy_mismatches",
        "greedy tokens that a cached prefix changes where there is no near-tie",
    ),
    same_shape("prefix_", "a warm prompt once more, a cold one in blocks that others had used"),
)


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """In any format, a cached beginning changes nothing beyond rounding, and whatever can be kept
    is."""
    return {**limits(OUTPUTS, context), "prefix_saved_share": 1.0}


GATE = GateSpec(
    package=__package__,
    name="prefix-cache",
    summary="A cached beginning leaves the outputs alone, and saves what it can.",
    order=50,
    samples="prompts",
    plans=(EquivalencePlan, CachesPlan),
    requires=frozenset({Capability.FULL_LOGITS, Capability.MODULES}),
    default_budgets=default_budgets,
    fewest_documents=one_document_a_prompt,
    metrics=(
        *OUTPUTS,
        Metric(
            "prefix_saved_share",
            Unit.SHARE,
            Rule.WORST,
            "tokens of a repeated prompt that were not computed again, of those in full blocks",
            higher_is_better=True,
        ),
    ),
)
