"""Memory: deterministic sizes are compared exactly; resident memory of a process is noisy."""

import math

from pytest_infopt import BudgetContext, Capability, GateSpec, Metric, Rule, Unit
from pytest_infopt.engines.weight_precision import dtype_bits

from ..plans import LatencyPlan

# Share of a model's weights that weight-only quantization leaves alone: embeddings, output head,
# norms. 13 % of an 8B Llama, 21 % of SmolLM2-135M, 28 % of Qwen2.5-0.5B; a third leaves room.
_UNQUANTIZED_SHARE = 1 / 3
_SCALE_BITS = 0.5  # a 16-bit scale per 32 weights, the finest usual granularity

SIZES = (
    Metric("weight_bytes", Unit.BYTES, Rule.EXACT, "parameters and quantization constants"),
    Metric("buffer_bytes", Unit.BYTES, Rule.EXACT, "buffers that are not weights"),
    Metric(
        "kv_bytes_per_token", Unit.BYTES, Rule.EXACT, "KV cache, measured, per token and sequence"
    ),
    Metric(
        "kv_prediction_error",
        Unit.BYTES,
        Rule.EXACT,
        "|KV cache measured − predicted by the architecture's formula, where one is known|",
    ),
    Metric(
        "peak_allocated_bytes", Unit.BYTES, Rule.EXACT, "CUDA allocator's peak on a fixed workload"
    ),
    Metric("peak_reserved_bytes", Unit.BYTES, Rule.EXACT, "CUDA allocator's reserved peak"),
)
RESIDENT = Metric(
    "host_peak_rss_ratio",
    Unit.RATIO,
    Rule.SIGN,
    "peak resident memory of a fresh process, candidate / reference",
)


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """The KV cache is as large as its formula says; weights in so many bits are that small."""
    limits = {"kv_prediction_error": 0.0}
    if context.precision.packed:
        limits["weight_bytes"] = _weight_share(context)
    return limits


def _weight_share(context: BudgetContext) -> float:
    """Largest share of the reference's weight bytes, rounded up to two digits.

    Quantized: the unquantized share stays, the rest shrinks to code and scale, against 16-bit
    floats (a 32-bit reference makes it easier): 8 bits 0.69, 4 bits 0.53, 3 bits 0.48. That is
    loose on purpose; it catches quantization that was silently not applied. Unquantized: the ratio
    of the dtypes, or, where the reference's own weights loaded in the candidate's dtype weigh more
    (some models keep single tensors in float32), those.
    """
    if context.precision.lossless:
        return dtype_bits(context.candidate) / dtype_bits(context.reference)
    quantized = (context.precision.bits + _SCALE_BITS) / 16
    return math.ceil(100 * (_UNQUANTIZED_SHARE + (1 - _UNQUANTIZED_SHARE) * quantized)) / 100


GATE = GateSpec(
    package=__package__,
    name="memory",
    summary="Weights, KV cache and peaks keep to their budgets.",
    order=90,
    samples="readings",
    plans=(LatencyPlan,),
    requires=frozenset({Capability.STREAM, Capability.MEMORY}),
    default_budgets=default_budgets,
    metrics=(*SIZES, RESIDENT),
)
