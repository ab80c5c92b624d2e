"""Throughput: a sample is a pair of loads in an order drawn by a coin, or a load of its own."""

from dataclasses import dataclass

from pytest_infopt import (
    BudgetContext,
    Capability,
    GateSpec,
    Metric,
    Plan,
    Release,
    Rule,
    Unit,
    rising,
    setting,
)
from pytest_infopt.engines.registry import engine_named
from pytest_infopt.judge.planning import fewest_to_pass

from ..timing import TIMING_SECONDS


@dataclass(frozen=True)
class ThroughputPlan(Plan):
    """Closed loads of ``concurrency`` clients on both models, and an open one of ``rate`` requests
    a second on the candidate, whose requests have an objective to keep."""

    concurrency: tuple[int, ...] = setting(
        (),
        "Clients that send one request after the other, rising; without any the gate does not run.",
        each={"ge": 1},
        check=rising,
    )
    requests: int = setting(32, "Requests of a load.", ge=1)
    prompt_tokens: int = setting(64, "Length of a request's prompt.", ge=1)
    new_tokens: int = setting(32, "Generated tokens of a request.", ge=2)
    max_pairs: int = setting(200, "Most pairs of loads.", ge=1)
    rate: float = setting(
        0.0, "Requests a second of the open load; 0: none.", ge=0, allow_inf_nan=False
    )
    ttft: float = setting(1.0, "Objective: seconds to the first token, from when it was due.", gt=0)
    tpot: float = setting(0.1, "Objective: seconds a token behind it.", gt=0)


THROUGHPUT = Metric(
    "throughput_ratio",
    Unit.RATIO,
    Rule.SIGN,
    "tokens a second over all concurrencies, candidate / reference, median",
    higher_is_better=True,
)
ATTAINMENT = Metric(
    "objective_share",
    Unit.SHARE,
    Rule.MEAN,
    "requests of an open load that keep the objective; failed ones do not",
    higher_is_better=True,
)


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """As many tokens a second as the reference, but for noise. A server beside a model in process
    is not asked alike, and what is no implementation to serve has no limit."""
    sources = (context.candidate, context.reference)
    served = {engine_named(source.engine).served for source in sources}
    if not context.meant_to_serve or len(served) > 1 or context.in_turns:
        return {}
    return {THROUGHPUT.name: 0.9}


_USUAL_RATE = 100.0  # tokens a second, to say what a load means


def announced(release: Release) -> list[str]:
    """What a PASS takes at least, as tokens and as seconds."""
    plan, terms = release.plan(ThroughputPlan), release.statistics
    budgets = [
        c.budgets[THROUGHPUT.name] for c in release.candidates if THROUGHPUT.name in c.budgets
    ]
    if not (plan.concurrency and budgets):
        return []
    pairs = max(fewest_to_pass(budget, terms.alpha_pass) for budget in budgets)
    tokens = 2 * pairs * len(plan.concurrency) * plan.requests * plan.new_tokens
    granted = terms.budget_seconds or TIMING_SECONDS
    return [
        f"{pairs} pairs of loads, the fewest that PASS, are {tokens:,} tokens of both models: "
        f"{tokens / _USUAL_RATE:,.0f} s at {_USUAL_RATE:g} tokens a second; "
        f"{granted:g} s (budget_seconds) are enough from {tokens / granted:,.0f} a second"
    ]


GATE = GateSpec(
    package=__package__,
    name="throughput",
    summary="Tokens a second under load, and requests that keep an objective.",
    order=85,
    samples="loads",
    plans=(ThroughputPlan,),
    announced=announced,
    switch=(ThroughputPlan, "concurrency"),
    requires=frozenset({Capability.LOAD}),
    default_budgets=default_budgets,
    budget_seconds=TIMING_SECONDS,
    metrics=(THROUGHPUT, ATTAINMENT),
)
