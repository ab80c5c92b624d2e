"""Latency: a sample is a pair of requests, timed in an order drawn by a coin."""

from pytest_infopt import Budget, BudgetContext, Capability, GateSpec, Release
from pytest_infopt.engines.registry import engine_named

from ..plans import LatencyPlan
from ..timing import METRICS, TIMING_SECONDS


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """Not slower than the reference, but for noise: pairs on shared CPUs need 10 % of margin to be
    decided within seconds, on a GPU 5 %. Without a named device it may be a CPU. Implementations
    that are not meant to serve have no limit, and neither has a server beside a model in process:
    they are not asked alike."""
    sources = (context.candidate, context.reference)
    served = {engine_named(source.engine).served for source in sources}
    if not context.meant_to_serve or len(served) > 1 or context.in_turns:
        return {}
    margin = 1.05 if context.candidate.device.startswith("cuda") else 1.10
    limits = {"ttft_ratio": margin, "tpot_ratio": margin}
    for name, limit in dict(limits).items():  # the mean of pairs is held to what their median is
        median = context.written.get(name, limit)
        if median is not None:
            kept = median.limit if isinstance(median, Budget) else median
            limits[name.replace("ratio", "mean_ratio")] = kept
    return limits


def most_samples(release: Release, documents: int | None) -> int:
    """A sample is a pair of requests."""
    return release.plan(LatencyPlan).max_pairs


def sample_tokens(release: Release, document_tokens: int | None) -> int:
    """A request's gaps between tokens."""
    return release.plan(LatencyPlan).new_tokens - 1


GATE = GateSpec(
    package=__package__,
    name="latency",
    summary="The candidate is at most so much slower than the reference.",
    order=80,
    samples="pairs of requests",
    plans=(LatencyPlan,),
    requires=frozenset({Capability.STREAM}),
    default_budgets=default_budgets,
    most_samples=most_samples,
    sample_tokens=sample_tokens,
    budget_seconds=TIMING_SECONDS,
    metrics=METRICS,
)
