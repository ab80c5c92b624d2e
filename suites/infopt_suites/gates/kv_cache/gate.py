"""The KV cache: a prompt by every way through it, against the plain pass; its size."""

from pytest_infopt import BudgetContext, Capability, Cause, GateSpec, Metric, Rule, Unit

from ..plans import CachesPlan, EquivalencePlan, one_document_a_prompt
from ..self_comparisons import error_ratio, limits, mismatches, same_shape

OUTPUTS = (
    error_ratio(
        "kv_error_ratio",
        "logits through the KV cache, by its worst way, against those without / dtype's error",
    ),
    mismatches(
        "kv_greedy_mismatches", "greedy tokens that the KV cache changes where there is no near-tie"
    ),
    same_shape(
        "kv_",
        "other tokens behind, other cache rows beside, other tokens taken back",
    ),
)
COARSE = Metric(
    "kv_coarse_tensors",
    Unit.COUNT,
    Rule.WORST,
    "keys, values and states by layer whose values are coarser than the dtype that keeps them",
    self_comparison=True,
)
LONG = (
    error_ratio(
        "kv_long_error_ratio",
        "last logits of a long prompt through the KV cache against those without / dtype's error",
    ),
    mismatches(
        "kv_long_greedy_mismatches",
        "greedy tokens that the KV cache changes at the end of a long prompt, near-ties aside",
    ),
    COARSE,
)
SIZE = Metric(
    "kv_size_error",
    Unit.BYTES,
    Rule.WORST,
    "largest |KV cache held − predicted by formula| over lengths and batch sizes",
)
SPEED_UP = Metric(
    "kv_step_speed_up",
    Unit.RATIO,
    Rule.SIGN,
    "time of a decoding step without the KV cache / with it, at the longest of [caches] lengths",
    higher_is_better=True,
)


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """In any format, a cache changes nothing beyond rounding, keeps the compute dtype unless the
    release names another, and holds what its formula says, where there is one."""
    outputs = limits((*OUTPUTS, *LONG), context)
    if context.candidate.kv_cache is not None:
        del outputs[COARSE.name]
    return {**outputs, SIZE.name: 0.0}


GATE = GateSpec(
    package=__package__,
    name="kv-cache",
    summary="Tokens come out of the KV cache as without it, and it is as large as it should be.",
    order=40,
    samples="prompts",
    plans=(EquivalencePlan, CachesPlan),
    requires=frozenset({Capability.FULL_LOGITS, Capability.CACHE, Capability.KV_SIZE}),
    default_budgets=default_budgets,
    fewest_documents=one_document_a_prompt,
    causes={metric.name: Cause.CACHE for metric in (*OUTPUTS, *LONG)},
    metrics=(*OUTPUTS, *LONG, SIZE, SPEED_UP),
)
