"""Long contexts: a sample is one text at one length."""

from dataclasses import dataclass

from pytest_infopt import (
    BudgetContext,
    Capability,
    GateSpec,
    Metric,
    ModelSource,
    Plan,
    Release,
    Rule,
    Unit,
    rising,
    setting,
)

from ..plans import EquivalencePlan
from ..self_comparisons import ERROR_RATIO, error_ratio

_USUAL_LENGTHS = (256, 1024)
SWEPT = (
    Metric(
        "long_context_kl",
        Unit.NATS,
        Rule.WORST,
        "largest mean KL(reference ‖ candidate) at the end of a text, over the swept lengths",
    ),
    Metric(
        "long_context_bucket_kl",
        Unit.NATS,
        Rule.WORST,
        "largest mean KL(reference ‖ candidate) of a bucket of positions, 0–128, –256, –512, …",
    ),
    error_ratio(
        "long_context_error_ratio",
        "last logits through the KV cache against those without / the dtype's own error",
    ),
)
NEEDLES = Metric(
    "needle_losses",
    Unit.COUNT,
    Rule.WORST,
    "pass keys in long texts that the reference is sure of, and the candidate does not find",
)


@dataclass(frozen=True)
class LongContextPlan(Plan):
    """The sweep: ``texts`` texts of each of ``lengths``, compared on their last ``tail`` tokens."""

    lengths: tuple[int, ...] = setting(
        (),
        "Lengths of the sweep in tokens, rising. Without lengths the gate runs on candidates with "
        "a kv_cache alone, at 256 and 1024 tokens as far as window and corpus reach.",
        each={"ge": 2},
        check=rising,
    )
    texts: int = setting(1, "Texts of each length.", ge=1)
    tail: int = setting(32, "Positions compared at a text's end.", ge=1)
    needles: int = setting(3, "Places of each length where a pass key is hidden, 0 for none.", ge=0)

    @property
    def swept(self) -> tuple[int, ...]:
        """The lengths, or what takes their place."""
        return self.lengths or _USUAL_LENGTHS


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """Of a single text, twice what is granted the mean over many; through the cache, as much as on
    a short prompt; and no pass key is lost."""
    limits = {"long_context_error_ratio": ERROR_RATIO, NEEDLES.name: 0.0}
    if "kl_mean" in context.budgets:
        limit = 2 * context.budgets["kl_mean"].limit
        limits |= {"long_context_kl": limit, "long_context_bucket_kl": limit}
    return limits


def _has_another_cache(source: ModelSource) -> bool:
    return source.kv_cache is not None


def _announced(release: Release) -> list[str]:
    """What the sweep costs, in the tokens that a pass takes."""
    plan = release.plan(LongContextPlan)
    if not plan.lengths and not any(c.source.kv_cache for c in release.candidates):
        return []
    tokens = sum(plan.swept) * (plan.texts + plan.needles)
    return [
        f"{tokens:,} tokens at most through reference and candidate each: {plan.texts} texts and "
        f"{plan.needles} pass keys at each of {', '.join(f'{n:,}' for n in plan.swept)} tokens"
    ]


GATE = GateSpec(
    package=__package__,
    name="long-context",
    summary="The candidate keeps to the reference, and to itself, as texts get longer.",
    order=60,
    samples="texts",
    plans=(LongContextPlan, EquivalencePlan),
    switch=(LongContextPlan, "lengths"),
    wanted_by=_has_another_cache,
    announced=_announced,
    requires=frozenset({Capability.SCORES}),
    default_budgets=default_budgets,
    metrics=(*SWEPT, NEEDLES),
)
