"""Served prefix: a server's answers behind beginnings that its cache has, and what that spared."""

from dataclasses import dataclass

from pytest_infopt import (
    BudgetContext,
    GateSpec,
    Metric,
    ModelSource,
    Plan,
    Release,
    Rule,
    Unit,
    setting,
)
from pytest_infopt.engines.registry import engine_named

from ..plans import EquivalencePlan

_USUAL_PROMPTS = 4


@dataclass(frozen=True)
class ServedPrefixPlan(Plan):
    """Prompts that a server is sent cold, warm and in between."""

    prompts: int = setting(
        0,
        "Prompts whose beginnings nobody has sent before; 0: the gate does not run, but for "
        "candidates in process that name their server, with 4.",
        ge=0,
    )
    prompt_tokens: int = setting(
        384, "Tokens of each: several blocks of the server's prefix cache.", ge=32
    )
    new_tokens: int = setting(8, "Greedy tokens that are asked for.", ge=1)
    at_once: int = setting(3, "Prompts that share a beginning and are sent at once.", ge=1)

    @property
    def asked(self) -> int:
        """How many prompts are sent, where the gate runs."""
        return self.prompts or _USUAL_PROMPTS


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
LOG_PROBS = Metric(
    "served_prefix_log_prob_ratio",
    Unit.RATIO,
    Rule.WORST,
    "by how much a repeated prompt's log-probabilities leave the first ones, of what two runs may",
    self_comparison=True,
)
FIRST_TOKEN = Metric(
    "served_prefix_ttft_ratio",
    Unit.RATIO,
    Rule.SIGN,
    "time to the first token of a repeated prompt, warm / cold, median",
)
_CACHES_AT_ALL = 0.01  # of a repeated prompt: a server keeps the size of its blocks to itself


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """A cached beginning changes no token, is one that was sent, and is taken at all. The tokens of
    quantized weights are not the reference's, cold or warm, and are held against the candidate's
    own where it is in process, too. What kernels of such weights may differ by is not known."""
    if not context.served:
        return {}
    limits = {CHANGES.name: 0.0, SAVED.name: _CACHES_AT_ALL, UNSHARED.name: 0.0}
    if context.precision.lossless or not engine_named(context.candidate.engine).served:
        limits[MISMATCHES.name] = 0.0
    if context.precision.lossless:
        limits[LOG_PROBS.name] = 1.0
    return limits


def _names_its_server(source: ModelSource) -> bool:
    """Whether a candidate that is in process names who serves it."""
    return source.server is not None and not engine_named(source.engine).served


def _most_samples(release: Release, documents: int | None) -> int:
    return release.plan(ServedPrefixPlan).asked


GATE = GateSpec(
    package=__package__,
    name="served-prefix",
    summary="A server's prefix cache leaves its answers alone, and takes part.",
    order=52,
    samples="prompts",
    plans=(ServedPrefixPlan, EquivalencePlan),
    switch=(ServedPrefixPlan, "prompts"),
    wanted_by=_names_its_server,
    default_budgets=default_budgets,
    most_samples=_most_samples,
    metrics=(CHANGES, LOG_PROBS, MISMATCHES, SAVED, UNSHARED, FIRST_TOKEN),
)
