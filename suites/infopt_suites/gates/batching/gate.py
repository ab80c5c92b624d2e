"""Batching: a sample is a prompt in every batch size, or a pair of runs in an order drawn by a
coin."""

from dataclasses import dataclass

from pytest_infopt import (
    BudgetContext,
    Capability,
    Cause,
    GateSpec,
    Metric,
    Plan,
    Rule,
    Unit,
    rising,
    setting,
)

from ..plans import CachesPlan, EquivalencePlan, one_document_a_prompt
from ..self_comparisons import error_ratio, limits, mismatches, same_shape


@dataclass(frozen=True)
class BatchingPlan(Plan):
    """Batches of ``batch_sizes`` rows are compared with each row alone; a dynamic batcher of
    ``max_batch_size`` and ``max_wait`` with one request at a time; and the strategies of batching
    on a trace of ``requests`` requests.
    """

    batch_sizes: tuple[int, ...] = setting(
        (),
        "Batch sizes whose rows are compared with the same alone, rising; without sizes the gate "
        "does not run.",
        each={"ge": 1},
        check=rising,
    )
    max_batch_size: int = setting(8, "Largest batch of the timed batchers.", ge=1)
    max_wait: float = setting(
        0.01, "Seconds that a request waits for others.", ge=0, allow_inf_nan=False
    )
    prompt_tokens: int = setting(32, "Length of a request; a trace's median.", ge=1)
    new_tokens: int = setting(16, "Median of a trace's generated tokens.", ge=1)
    requests: int = setting(24, "Requests of the trace of strategies.", ge=2)
    load: float = setting(
        2.0,
        "What the trace asks for, in multiples of what one at a time serves.",
        gt=0,
        allow_inf_nan=False,
    )
    max_pairs: int = setting(30, "Most timed pairs of batched and one by one.", ge=1)


INVARIANCE = (
    error_ratio(
        "batch_invariance_error_ratio",
        "logits of a batch's rows against those alone, worst batch size / the dtype's error",
    ),
    mismatches(
        "batch_invariance_mismatches",
        "greedy tokens that a batch changes where there is no near-tie",
    ),
    same_shape("batch_", "other neighbours of the same lengths, another place in the batch"),
    Metric(
        "rows_together_share",
        Unit.SHARE,
        Rule.WORST,
        "rows of a batch that one pass of the model computed; 100 % is a batch at all",
        higher_is_better=True,
        self_comparison=True,
    ),
)
THROUGHPUT = Metric(
    "batching_throughput_ratio",
    Unit.RATIO,
    Rule.SIGN,
    "requests a second of a dynamic batcher / one by one",
    higher_is_better=True,
)
WINDOW = Metric(
    "window_latency_seconds",
    Unit.SECONDS,
    Rule.WORST,
    "latency with the batcher's window less latency without, p99 over a simulated trace",
)


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """Batching may change no result; what it gains in time is reported, and limited on request."""
    return {**limits(INVARIANCE, context), "rows_together_share": 1.0}


GATE = GateSpec(
    package=__package__,
    name="batching",
    summary="A batch leaves results alone; what it gains, and what its window costs.",
    order=70,
    samples="pairs of runs",
    plans=(BatchingPlan, EquivalencePlan, CachesPlan),
    switch=(BatchingPlan, "batch_sizes"),
    requires=frozenset({Capability.FULL_LOGITS, Capability.BATCHES, Capability.MODULES}),
    default_budgets=default_budgets,
    fewest_documents=one_document_a_prompt,
    causes={metric.name: Cause.ROUTES for metric in INVARIANCE[:-1]},
    metrics=(*INVARIANCE, THROUGHPUT, WINDOW),
)
