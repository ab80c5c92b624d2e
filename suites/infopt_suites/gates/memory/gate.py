"""Memory: deterministic sizes are compared exactly; resident memory of a process is noisy."""

from pytest_infopt import Capability, GateSpec, Metric, Rule, Unit

from ..plans import LatencyPlan
from .limits import default_budgets

SIZES = (
    Metric("weight_bytes", Unit.BYTES, Rule.EXACT, "parameters and quantization constants"),
    Metric(
        "changed_share",
        Unit.SHARE,
        Rule.EXACT,
        "share of the weights of all matrices whose matrix differs from the reference's",
        higher_is_better=True,
    ),
    Metric("bits_per_weight", Unit.NUMBER, Rule.EXACT, "bits kept for each weight of all matrices"),
    Metric(
        "sparsity",
        Unit.SHARE,
        Rule.EXACT,
        "share of zeros among the weights of all matrices, where they are floats",
        higher_is_better=True,
    ),
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
