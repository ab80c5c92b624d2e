"""Same model: is what a server answers with the reference's model? In few requests of a token."""

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
    setting,
)
from pytest_infopt.engines.registry import engine_named


@dataclass(frozen=True)
class SameModelPlan(Plan):
    """What a server is asked, a token a request."""

    requests: int = setting(64, "Most requests.", ge=1)
    documents: int = setting(24, "Documents whose beginnings are searched for border inputs.", ge=1)
    prompt_tokens: int = setting(32, "Most tokens of a prompt.", ge=2)


DISTANCE = Metric(
    "same_model_distance",
    Unit.RATIO,
    Rule.SIGN,
    "distance of the first token's log-probabilities from the reference's in float32, over that of "
    "the reference's weights in 16 bit",
    default_if_decidable=True,
)
CHANGES = Metric(
    "same_model_changes",
    Unit.SHARE,
    Rule.MEAN,
    "border inputs, where the reference's two best tokens are as near as rounding allows, behind "
    "which the server's token is not the reference's",
    default_if_decidable=True,
)
# An implementation of the same weights errs by at most twice what a plain one does (OUTPUT_FACTOR).
_FACTOR = 2.0
# Another model tosses a coin for each border input. A quarter of what that turns over:
_CHANGES = 0.125


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """For unquantized weights behind a server: what quantized ones cost is for the divergence. The
    reference computes here, in two dtypes."""
    reference = engine_named(context.reference.engine)
    if not context.served or not context.precision.lossless:
        return {}
    if not {Capability.SCORES, Capability.MODULES} <= reference.capabilities:
        return {}
    return {DISTANCE.name: _FACTOR, CHANGES.name: _CHANGES}


def most_samples(release: Release, documents: int | None) -> int:
    return release.plan(SameModelPlan).requests


GATE = GateSpec(
    package=__package__,
    name="same-model",
    summary="What answers at a server is the reference's model.",
    order=33,
    samples="requests",
    plans=(SameModelPlan,),
    default_budgets=default_budgets,
    most_samples=most_samples,
    metrics=(DISTANCE, CHANGES),
)
