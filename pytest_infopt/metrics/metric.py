"""The metrics that a gate can measure and a budget can limit, each stated once.

``measure`` fills them, ``judge`` reads from them which test decides, ``config`` checks budget names
and units against them, ``report`` prints their units. Nobody else lists metric names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Gate(StrEnum):
    """One pytest item per candidate each."""

    SELF_CHECK = "self-check"  # the reference against itself: judges the runner, not a candidate
    EQUIVALENCE = "equivalence"
    QUALITY = "quality"
    KV_CACHE = "kv-cache"
    PREFIX_CACHE = "prefix-cache"
    LONG_CONTEXT = "long-context"  # where the release names lengths
    BATCHING = "batching"  # where the release names batch sizes
    LATENCY = "latency"
    MEMORY = "memory"
    SEMANTIC_CACHE = "semantic-cache"  # where the release names an embedder, whom it judges


SAMPLES: dict[str, str] = {  # what one independent unit of a gate is, in the plural
    Gate.EQUIVALENCE: "prompts",
    Gate.QUALITY: "documents",
    Gate.KV_CACHE: "prompts",
    Gate.PREFIX_CACHE: "prompts",
    Gate.LONG_CONTEXT: "texts",
    Gate.BATCHING: "pairs of runs",
    Gate.LATENCY: "pairs of requests",
    Gate.MEMORY: "readings",
    Gate.SEMANTIC_CACHE: "hits",
}


class Unit(StrEnum):
    """What a number of this metric means, and so which suffixes a budget may carry."""

    NATS = "nats"
    SHARE = "share"  # 0…1, written 0.99 or "99 %"
    RATIO = "x"  # candidate / reference, written 1.05, "1.05x" or "+5 %"
    SECONDS = "s"
    BYTES = "bytes"  # "250 MiB", or "0.3x" for a share of the reference's
    DECIBEL = "dB"
    COUNT = "count"
    NUMBER = "number"


class Rule(StrEnum):
    """How samples become a verdict (STATISTICS: the judge module of the same name)."""

    MEAN = "mean"  # betting on the mean over documents of a non-negative value
    SIGN = "sign"  # sign test on the paired log-ratio: its median against ln(limit)
    EXCEEDANCE = "exceedance"  # share of values beyond the limit against 1 − quantile
    WORST = "worst"  # every planned sample must keep the limit
    EXACT = "exact"  # one deterministic number
    PROPORTION = "proportion"  # independent trials, all planned ones, against a rate


@dataclass(frozen=True)
class Metric:
    """A number that a gate measures.

    ``higher_is_better`` gives the direction of its budget: at least, or at most. ``quantile`` goes
    with EXCEEDANCE: the budget limits that quantile of the values. ``power`` is for MEAN: samples
    carry the mean of the value's power (2: the mean square), budget and reports speak of its root.
    ``of_itself`` marks what compares the candidate with itself by another path: outputs that have
    the reference's bits do not vouch for it.
    """

    name: str
    gate: Gate
    unit: Unit
    rule: Rule
    summary: str
    higher_is_better: bool = False
    quantile: float | None = None
    power: int = 1
    of_itself: bool = False


def _quantiles(
    prefix: str, gate: Gate, unit: Unit, what: str, levels: dict[str, float]
) -> list[Metric]:
    return [
        Metric(
            f"{prefix}_{name}",
            gate,
            unit,
            Rule.EXCEEDANCE,
            f"{100 * q:g} % quantile of {what}",
            quantile=q,
        )
        for name, q in levels.items()
    ]


_TAIL = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in [
        # Equivalence: errors are relative to what the same dtype costs a plain implementation.
        Metric(
            "logit_error_ratio",
            Gate.EQUIVALENCE,
            Unit.RATIO,
            Rule.WORST,
            "RMS logit error against the oracle / that of the reference in the same dtype",
        ),
        Metric(
            "sqnr_db",
            Gate.EQUIVALENCE,
            Unit.DECIBEL,
            Rule.WORST,
            "logit signal-to-noise ratio against the oracle",
            higher_is_better=True,
        ),
        Metric(
            "cosine",
            Gate.EQUIVALENCE,
            Unit.NUMBER,
            Rule.WORST,
            "smallest cosine between a position's logits and the oracle's",
            higher_is_better=True,
        ),
        Metric(
            "max_logit_error",
            Gate.EQUIVALENCE,
            Unit.NUMBER,
            Rule.WORST,
            "largest absolute logit error against the oracle",
        ),
        Metric(
            "greedy_mismatches",
            Gate.EQUIVALENCE,
            Unit.COUNT,
            Rule.WORST,
            "greedy tokens that differ from the reference's where it has no near-tie",
        ),
        Metric(
            "causality_error_ratio",
            Gate.EQUIVALENCE,
            Unit.RATIO,
            Rule.WORST,
            "change of earlier logits when a later token changes / the dtype's own error",
            of_itself=True,
        ),
        Metric(
            "cached_error_ratio",
            Gate.EQUIVALENCE,
            Unit.RATIO,
            Rule.WORST,
            "logits with the KV cache against those without / the dtype's own error",
            of_itself=True,
        ),
        Metric(
            "batch_error_ratio",
            Gate.EQUIVALENCE,
            Unit.RATIO,
            Rule.WORST,
            "logits of a left-padded batch row against those alone / the dtype's own error",
            of_itself=True,
        ),
        # Quality: a sample is a document, its value the mean over its tokens.
        Metric(
            "kl_mean", Gate.QUALITY, Unit.NATS, Rule.MEAN, "KL(reference ‖ candidate) per token"
        ),
        Metric(
            "kl_reverse_mean",
            Gate.QUALITY,
            Unit.NATS,
            Rule.MEAN,
            "KL(candidate ‖ reference) per token",
        ),
        *_quantiles(
            "kl", Gate.QUALITY, Unit.NATS, "KL(reference ‖ candidate)", _TAIL | {"p999": 0.999}
        ),
        Metric(
            "kl_max",
            Gate.QUALITY,
            Unit.NATS,
            Rule.WORST,
            "largest KL(reference ‖ candidate) of a token",
        ),
        Metric(
            "perplexity_ratio",
            Gate.QUALITY,
            Unit.RATIO,
            Rule.SIGN,
            "perplexity, candidate / reference",
        ),
        Metric(
            "top1_agreement",
            Gate.QUALITY,
            Unit.SHARE,
            Rule.MEAN,
            "tokens whose most probable successor is the same",
            higher_is_better=True,
        ),
        Metric(
            "top5_overlap",
            Gate.QUALITY,
            Unit.SHARE,
            Rule.MEAN,
            "share of the five most probable successors in common",
            higher_is_better=True,
        ),
        Metric(
            "true_probability_rms",
            Gate.QUALITY,
            Unit.SHARE,
            Rule.MEAN,
            "RMS change of the probability of the true token (judged on its square)",
            power=2,
        ),
        # The KV cache: a prompt by every way through the cache, against the plain pass.
        Metric(
            "kv_error_ratio",
            Gate.KV_CACHE,
            Unit.RATIO,
            Rule.WORST,
            "logits through the KV cache, by its worst way, against those without / dtype's error",
            of_itself=True,
        ),
        Metric(
            "kv_greedy_mismatches",
            Gate.KV_CACHE,
            Unit.COUNT,
            Rule.WORST,
            "greedy tokens that the KV cache changes where there is no near-tie",
            of_itself=True,
        ),
        Metric(
            "kv_size_error",
            Gate.KV_CACHE,
            Unit.BYTES,
            Rule.WORST,
            "largest |KV cache held − predicted by formula| over lengths and batch sizes",
        ),
        Metric(
            "prefix_error_ratio",
            Gate.PREFIX_CACHE,
            Unit.RATIO,
            Rule.WORST,
            "logits behind a cached prefix against the plain pass / the dtype's own error",
            of_itself=True,
        ),
        Metric(
            "prefix_greedy_mismatches",
            Gate.PREFIX_CACHE,
            Unit.COUNT,
            Rule.WORST,
            "greedy tokens that a cached prefix changes where there is no near-tie",
            of_itself=True,
        ),
        Metric(
            "prefix_saved_share",
            Gate.PREFIX_CACHE,
            Unit.SHARE,
            Rule.WORST,
            "tokens of a repeated prompt that were not computed again, of those in full blocks",
            higher_is_better=True,
        ),
        # Long contexts: a sample is one text at one length.
        Metric(
            "long_context_kl",
            Gate.LONG_CONTEXT,
            Unit.NATS,
            Rule.WORST,
            "largest mean KL(reference ‖ candidate) at the end of a text, over the swept lengths",
        ),
        Metric(
            "long_context_error_ratio",
            Gate.LONG_CONTEXT,
            Unit.RATIO,
            Rule.WORST,
            "last logits through the KV cache against those without / the dtype's own error",
            of_itself=True,
        ),
        # Batching: a sample is a batch size, or a pair of runs in an order drawn by a coin.
        Metric(
            "batch_invariance_error_ratio",
            Gate.BATCHING,
            Unit.RATIO,
            Rule.WORST,
            "logits of a batch's rows against those alone, worst batch size / the dtype's error",
            of_itself=True,
        ),
        Metric(
            "batch_invariance_mismatches",
            Gate.BATCHING,
            Unit.COUNT,
            Rule.WORST,
            "greedy tokens that a batch changes where there is no near-tie",
            of_itself=True,
        ),
        Metric(
            "batching_throughput_ratio",
            Gate.BATCHING,
            Unit.RATIO,
            Rule.SIGN,
            "requests a second of a dynamic batcher / one by one",
            higher_is_better=True,
        ),
        Metric(
            "window_latency_seconds",
            Gate.BATCHING,
            Unit.SECONDS,
            Rule.WORST,
            "latency with the batcher's window less latency without, p99 over a simulated trace",
        ),
        # Latency: a sample is a pair of requests, timed in an order drawn by a coin.
        Metric(
            "ttft_ratio",
            Gate.LATENCY,
            Unit.RATIO,
            Rule.SIGN,
            "time to first token, candidate / reference",
        ),
        Metric(
            "tpot_ratio",
            Gate.LATENCY,
            Unit.RATIO,
            Rule.SIGN,
            "time per output token, candidate / reference",
        ),
        Metric(
            "e2e_ratio",
            Gate.LATENCY,
            Unit.RATIO,
            Rule.SIGN,
            "request sent to last token, candidate / reference",
        ),
        *_quantiles("ttft", Gate.LATENCY, Unit.SECONDS, "time to first token", _TAIL),
        *_quantiles("tpot", Gate.LATENCY, Unit.SECONDS, "time per output token", _TAIL),
        *_quantiles("itl", Gate.LATENCY, Unit.SECONDS, "inter-token latency", _TAIL),
        *_quantiles("e2e", Gate.LATENCY, Unit.SECONDS, "end-to-end request time", _TAIL),
        # Memory: deterministic sizes are compared exactly; resident memory of a process is noisy.
        Metric(
            "weight_bytes",
            Gate.MEMORY,
            Unit.BYTES,
            Rule.EXACT,
            "parameters and quantization constants",
        ),
        Metric("buffer_bytes", Gate.MEMORY, Unit.BYTES, Rule.EXACT, "buffers that are not weights"),
        Metric(
            "kv_bytes_per_token",
            Gate.MEMORY,
            Unit.BYTES,
            Rule.EXACT,
            "KV cache, measured, per token and sequence",
        ),
        Metric(
            "kv_prediction_error",
            Gate.MEMORY,
            Unit.BYTES,
            Rule.EXACT,
            "|KV cache measured − 2·layers·kv_heads·head_dim·tokens·batch·bytes|",
        ),
        Metric(
            "peak_allocated_bytes",
            Gate.MEMORY,
            Unit.BYTES,
            Rule.EXACT,
            "CUDA allocator's peak on a fixed workload",
        ),
        Metric(
            "peak_reserved_bytes",
            Gate.MEMORY,
            Unit.BYTES,
            Rule.EXACT,
            "CUDA allocator's reserved peak",
        ),
        Metric(
            "host_peak_rss_ratio",
            Gate.MEMORY,
            Unit.RATIO,
            Rule.SIGN,
            "peak resident memory of a fresh process, candidate / reference",
        ),
        # The semantic cache: a sample is a pair of questions that hits.
        Metric(
            "semantic_hit_precision",
            Gate.SEMANTIC_CACHE,
            Unit.SHARE,
            Rule.PROPORTION,
            "hits of the semantic cache's threshold that one answer serves",
            higher_is_better=True,
        ),
        Metric(
            "semantic_hit_rate",
            Gate.SEMANTIC_CACHE,
            Unit.SHARE,
            Rule.WORST,
            "queries of a stream, paraphrased and Zipf-distributed, that hit",
            higher_is_better=True,
        ),
    ]
}


def metrics_of(gate: Gate) -> list[Metric]:
    """The gate's metrics in the order in which reports print them."""
    return [metric for metric in METRICS.values() if metric.gate is gate]
