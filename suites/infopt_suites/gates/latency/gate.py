"""Latency: a sample is a pair of requests, timed in an order drawn by a coin."""

from pytest_infopt import BudgetContext, Capability, GateSpec, Release

from ..plans import LatencyPlan
from ..timing import METRICS, TIMING_SECONDS


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """Not slower than the reference, but for noise: pairs on shared CPUs need 10 % of margin to be
    decided within seconds, on a GPU 5 %. Without a named device it may be a CPU. Implementations
    that are not meant to serve have no limit."""
    if not context.meant_to_serve:
        return {}
    margin = 1.05 if context.candidate.device.startswith("cuda") else 1.10
    return {"ttft_ratio": margin, "tpot_ratio": margin}


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
