"""Served prefix: a server's answers behind beginnings that its cache has, and what that spared."""

from dataclasses import dataclass

from pytest_infopt import (
    BudgetContext,
    Capability,
    GateSpec,
    Metric,
    Plan,
    Rule,
    Unit,
    setting,
)
from pytest_infopt.engines.registry import engine_named

from ..plans import EquivalencePlan


@dataclass(frozen=True)
class ServedPrefixPlan(Plan):
    """Prompts that a server is sent cold, warm and in between."""

    prompts: int = setting(
        0, "Prompts whose beginnings nobody has sent before; 0: the gate does not run.", ge=0
    )
    prompt_tokens: int = setting(
        384, "Tokens of each: several blocks of the server's prefix cache.", ge=32
    )
    new_tokens: int = setting(8, "Greedy tokens that are asked for.", ge=1)


CHANGES = Metric(
    "served_prefix_changes",
    Unit.COUNT,
    Rule.WORST,
    "repeated prompts whose answers leave the cold one where there is no near-tie",
    self_comparison=True,
)
MISMATCHES = Metric(
    "served_prefix_mismatches",
    Unit.COUNT,
    Rule.WORST,
    "tokens behind cold, warm and shared beginnings that are not the reference's, near-ties apart",
)
SAVED = Metric(
    "served_prefix_saved_share",
    Unit.SHARE,
    Rule.WORST,
    "tokens of a repeated prompt that the server says it took from its cache",
    higher_is_better=True,
)
UNSHARED = Metric(
    "served_prefix_unshared_tokens",
    Unit.COUNT,
    Rule.WORST,
    "tokens that the server says it took from its cache, and that began no earlier prompt",
)
_CACHES_AT_ALL = 0.01  # of a repeated prompt: a server keeps the size of its blocks to itself


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """A cached beginning changes no token, is one that was sent, and is taken at all. The tokens of
    quantized weights are not the reference's, cold or warm. A model in process has no such
    cache."""
    if Capability.COUNTS not in engine_named(context.candidate.engine).capabilities:
        return {}
    limits = {CHANGES.name: 0.0, SAVED.name: _CACHES_AT_ALL, UNSHARED.name: 0.0}
    if context.precision.lossless:
        limits[MISMATCHES.name] = 0.0
    return limits


GATE = GateSpec(
    package=__package__,
    name="served-prefix",
    summary="A server's prefix cache leaves its answers alone, and takes part.",
    order=52,
    samples="prompts",
    plans=(ServedPrefixPlan, EquivalencePlan),
    switch=(ServedPrefixPlan, "prompts"),
    default_budgets=default_budgets,
    most_samples=lambda release, documents: release.plan(ServedPrefixPlan).prompts,
    metrics=(CHANGES, MISMATCHES, SAVED, UNSHARED),
)
