"""Speculative decoding: a sample is a prompt that is decoded with a draft and without, in an order
drawn by a coin."""

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_infopt import (
    BudgetContext,
    Candidate,
    Capability,
    GateSpec,
    Metric,
    Plan,
    Release,
    Rule,
    Unit,
    setting,
)

from ..plans import EquivalencePlan
from ..self_comparisons import mismatches


@dataclass(frozen=True)
class SpeculativePlan(Plan):
    """Prompts that a candidate with a draft decodes, with it and without.

    Who drafts, and how many tokens for each pass, stands in the candidate's table ``draft``.
    """

    prompts: int = setting(24, "Prompts that are decoded both ways, and timed.", ge=1)
    tokens: int = setting(48, "Length of each prompt.", ge=2)
    new_tokens: int = setting(32, "Generated tokens of each.", ge=4)
    warmup: int = setting(1, "Untimed requests each way before the first prompt.", ge=0)

    @property
    def request_tokens(self) -> int:
        """Tokens of a request, prompt and answer."""
        return self.tokens + self.new_tokens


MISMATCHES = mismatches(
    "speculative_greedy_mismatches",
    "greedy tokens that a draft changes where there is no near-tie, that are missing or too many",
)
ACCEPTANCE = Metric(
    "draft_acceptance",
    Unit.SHARE,
    Rule.MEAN,
    "drafted tokens that the candidate accepts, mean over prompts",
    higher_is_better=True,
)
SPEED_UP = Metric(
    "speculative_speed_up",
    Unit.RATIO,
    Rule.SIGN,
    "time a generated token without the draft / with it, of the same prompt",
    higher_is_better=True,
)
BYTES = Metric(
    "draft_bytes",
    Unit.BYTES,
    Rule.EXACT,
    "what the draft adds: its weights, its buffers, and its KV cache at the end of a request",
)


def default_budgets(context: BudgetContext) -> Mapping[str, float]:
    """A draft changes no token, and is no loss of time. A server cannot be asked for the time that
    it would take without."""
    if not context.drafted:
        return {}
    lossless = {MISMATCHES.name: 0.0}
    return lossless if context.served else {**lossless, SPEED_UP.name: 1.0}


def unnamed(candidate: Candidate) -> str:
    """What a candidate lacks that somebody set a limit on."""
    if candidate.draft is not None:
        return ""
    return (
        f"candidate {candidate.name!r} names no draft; write [candidates.{candidate.name}.draft], "
        "or switch the limit off for it"
    )


def prompts(release: Release) -> int:
    return release.plan(SpeculativePlan).prompts


GATE = GateSpec(
    package=__package__,
    name="speculative",
    summary="A draft changes no token; how many are accepted, what time it saves, what it weighs.",
    order=75,
    samples="prompts",
    plans=(SpeculativePlan, EquivalencePlan),
    requires=frozenset(
        {Capability.FULL_LOGITS, Capability.DRAFTS, Capability.BATCHES, Capability.MODULES}
    ),
    unnamed=unnamed,
    default_budgets=default_budgets,
    most_samples=lambda release, of_the_corpus: prompts(release),
    fewest_documents=prompts,
    budget_seconds=240.0,
    metrics=(MISMATCHES, ACCEPTANCE, SPEED_UP, BYTES),
)
