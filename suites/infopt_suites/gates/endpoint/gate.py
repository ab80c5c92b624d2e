"""Endpoint: what a server tells of its model, against the reference."""

from dataclasses import dataclass

from pytest_infopt import BudgetContext, GateSpec, Metric, Plan, Rule, Unit, setting
from pytest_infopt.engines.registry import engine_named

from ..format_losses import usual_losses
from ..plans import EquivalencePlan


@dataclass(frozen=True)
class EndpointPlan(Plan):
    """What a server is asked about documents."""

    prompts: int = setting(32, "Documents whose beginning the server continues.", ge=1)
    prompt_tokens: int = setting(32, "Tokens of a document that the server continues.", ge=2)
    new_tokens: int = setting(16, "Greedy tokens that it is asked for.", ge=1)
    positions: int = setting(
        16, "Positions of a document that are scored where each costs a request.", ge=1
    )


KL = Metric(
    "endpoint_kl_mean",
    Unit.NATS,
    Rule.MEAN,
    "KL(reference ‖ candidate) per token, with all tokens lumped that are not told: a lower bound",
)
AGREEMENT = Metric(
    "endpoint_top1_agreement",
    Unit.SHARE,
    Rule.MEAN,
    "greedy tokens of the server that are the reference's most probable behind the same text",
    higher_is_better=True,
)
MISMATCHES = Metric(
    "endpoint_token_mismatches",
    Unit.COUNT,
    Rule.WORST,
    "greedy tokens of the server that are not the reference's where it has no near-tie",
)

OF_TOKENS = (AGREEMENT, MISMATCHES)


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """What the format loses at most; a lossless one changes no token but near-ties. Two models in
    process are compared by gates that see whole distributions."""
    sources = (context.candidate, context.reference)
    if not any(engine_named(source.engine).served for source in sources):
        return {}
    kl, changed, _ = usual_losses(context)
    limits = {KL.name: kl}
    if not context.precision.lossless:
        limits[AGREEMENT.name] = round(1 - changed, 6)
    elif not engine_named(context.reference.engine).served:  # whose near-ties are not known
        limits[MISMATCHES.name] = 0.0
    return limits


GATE = GateSpec(
    package=__package__,
    name="endpoint",
    summary="What a server tells of its model is near what the reference finds.",
    order=32,
    samples="documents",
    plans=(EndpointPlan, EquivalencePlan),
    default_budgets=default_budgets,
    most_samples=lambda release, documents: documents,
    sample_tokens=lambda release, tokens: release.plan(EndpointPlan).new_tokens,
    metrics=(KL, *OF_TOKENS),
)
