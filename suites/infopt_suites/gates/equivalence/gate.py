"""Equivalence: errors are relative to what the same dtype costs a plain implementation."""

from pytest_infopt import BudgetContext, Capability, Cause, GateSpec, Metric, Rule, Unit

from ..plans import EquivalencePlan, one_document_a_prompt
from ..self_comparisons import ERROR_RATIO, error_ratio, limits, mismatches, same_shape

_SELF_COMPARISONS = (
    error_ratio(
        "causality_error_ratio",
        "change of earlier logits when a later token changes / the dtype's own error",
    ),
    error_ratio(
        "cached_error_ratio",
        "logits with the KV cache against those without / the dtype's own error",
    ),
    error_ratio(
        "batch_error_ratio",
        "logits of a left-padded batch row against those alone / the dtype's own error",
    ),
    error_ratio(
        "served_error_ratio",
        "logits by the paths that serve (last positions, right padding, other kernels) / dtype's "
        "error",
    ),
    mismatches(
        "served_greedy_mismatches",
        "greedy tokens that such a path changes where there is no near-tie",
    ),
    same_shape("", "once more, other neighbours in the batch, other tokens behind"),
)


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """A model has to agree with itself in any format; with the reference only if meant lossless."""
    itself = limits(_SELF_COMPARISONS, context)
    if not context.precision.lossless:
        return itself
    return {"logit_error_ratio": ERROR_RATIO, "greedy_mismatches": 0.0, **itself}


GATE = GateSpec(
    package=__package__,
    name="equivalence",
    summary="The candidate computes the function that it claims to, up to its dtype's own error.",
    order=20,
    samples="prompts",
    plans=(EquivalencePlan,),
    requires=frozenset({Capability.FULL_LOGITS, Capability.BATCHES}),
    default_budgets=default_budgets,
    identical_outputs_pass=True,
    causes={
        "logit_error_ratio": Cause.WEIGHTS,
        "sqnr_db": Cause.WEIGHTS,
        "cosine": Cause.WEIGHTS,
        "max_logit_error": Cause.WEIGHTS,
        "greedy_mismatches": Cause.WEIGHTS,
        "cached_error_ratio": Cause.CACHE,
        "causality_error_ratio": Cause.ROUTES,
        "batch_error_ratio": Cause.ROUTES,
        "served_error_ratio": Cause.ROUTES,
        "served_greedy_mismatches": Cause.ROUTES,
        "same_shape_differences": Cause.ROUTES,
    },
    fewest_documents=one_document_a_prompt,
    metrics=(
        Metric(
            "logit_error_ratio",
            Unit.RATIO,
            Rule.WORST,
            "RMS logit error against the oracle / that of the reference in the same dtype",
        ),
        Metric(
            "sqnr_db",
            Unit.DECIBEL,
            Rule.WORST,
            "logit signal-to-noise ratio against the oracle",
            higher_is_better=True,
        ),
        Metric(
            "cosine",
            Unit.NUMBER,
            Rule.WORST,
            "smallest cosine between a position's logits and the oracle's",
            higher_is_better=True,
        ),
        Metric(
            "max_logit_error",
            Unit.NUMBER,
            Rule.WORST,
            "largest absolute logit error against the oracle",
        ),
        Metric(
            "greedy_mismatches",
            Unit.COUNT,
            Rule.WORST,
            "greedy tokens that differ from the reference's where it has no near-tie",
        ),
        *_SELF_COMPARISONS,
    ),
)
