"""Quality: a sample is a document, its value the mean over its tokens."""

from pytest_infopt import TAIL, Capability, Cause, GateSpec, Metric, Release, Rule, Unit, quantiles

from .limits import default_budgets


def most_samples(release: Release, documents: int | None) -> int | None:
    """A sample is a document."""
    return documents


def sample_tokens(release: Release, document_tokens: int | None) -> int | None:
    """A document's predictions."""
    return document_tokens


OF_DOCUMENTS = (
    Metric("kl_mean", Unit.NATS, Rule.MEAN, "KL(reference ‖ candidate) per token"),
    Metric("kl_reverse_mean", Unit.NATS, Rule.MEAN, "KL(candidate ‖ reference) per token"),
    *quantiles(
        "kl_document",
        Unit.NATS,
        "documents' mean KL(reference ‖ candidate)",
        {"p90": 0.90, "p95": 0.95, "p99": 0.99},
        single_valued=True,
        default_if_decidable=True,
    ),
    *quantiles("kl", Unit.NATS, "KL(reference ‖ candidate)", {**TAIL, "p999": 0.999}),
    Metric("kl_max", Unit.NATS, Rule.WORST, "largest KL(reference ‖ candidate) of a token"),
    Metric(
        "perplexity_ratio",
        Unit.RATIO,
        Rule.LOG_MEAN,
        "perplexity, candidate / reference, documents of equal weight",
        equal=1.0,
    ),
    Metric(
        "top1_agreement",
        Unit.SHARE,
        Rule.MEAN,
        "tokens whose most probable successor is the same",
        higher_is_better=True,
    ),
    Metric(
        "top5_overlap",
        Unit.SHARE,
        Rule.MEAN,
        "share of the five most probable successors in common",
        higher_is_better=True,
    ),
    Metric(
        "true_probability_rms",
        Unit.SHARE,
        Rule.MEAN,
        "RMS change of the probability of the true token (judged on its square)",
        power=2,
    ),
)
PROFILE = (
    Metric(
        "kl_position_ratio",
        Unit.NUMBER,
        Rule.WORST,
        "KL at any stretch of positions / at the others of the same document, median of documents",
    ),
    Metric(
        "kl_trend",
        Unit.NUMBER,
        Rule.WORST,
        "evidence (e-value) that KL rises over the session, against documents in random order",
    ),
)


def population(release: Release) -> bool:
    """Whether the corpus is declared to be all there is."""
    return release.corpus.population


GATE = GateSpec(
    package=__package__,
    name="quality",
    summary="The candidate's next-token distributions are near the reference's.",
    order=30,
    samples="documents",
    requires=frozenset({Capability.SCORES}),
    default_budgets=default_budgets,
    most_samples=most_samples,
    sample_tokens=sample_tokens,
    identical_outputs_pass=True,
    population=population,
    causes={metric.name: Cause.WEIGHTS for metric in (*OF_DOCUMENTS, *PROFILE)},
    metrics=(*OF_DOCUMENTS, *PROFILE),
)
