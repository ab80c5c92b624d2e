"""Pooled figures of a quality measurement, for people: percentiles, perplexities, buckets.

Verdicts do not come from here: tokens of one document are not independent. Imports nothing heavy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pytest_infopt import Sample

# Buckets of the reference's largest probability: a damaged candidate often keeps the tokens that
# the reference is sure of, and loses the open ones.
CONFIDENCE_EDGES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}


def summarise(samples: Sequence[Sample]) -> dict[str, Any]:
    """Pool documents (`quality.measure_document`) token by token.

    Returns ``documents``, ``tokens``, ``identical`` (how many documents), ``kl`` and
    ``kl_reverse`` (mean; percentiles, max, and what the mean may be ``off`` by, of the former),
    ``perplexity`` (reference, candidate, ratio), ``top1_agreement``, ``top5_overlap``,
    ``true_probability`` (mean change, RMS change) and ``buckets`` by reference confidence. Raises
    ValueError for no samples.
    """
    if not samples:
        raise ValueError("no samples to summarise: measure at least one document")
    tokens = sum(sample.weight for sample in samples)
    return {
        "documents": len(samples),
        "tokens": tokens,
        "identical": sum(sample.identical for sample in samples),
        "kl": {"mean": _pooled(samples, "kl_mean"), **_kl_tail(samples), **_kl_off(samples)},
        "kl_reverse": {"mean": _pooled(samples, "kl_reverse_mean")},
        "perplexity": _perplexity(samples, tokens),
        "top1_agreement": _pooled(samples, "top1_agreement"),
        "top5_overlap": _pooled(samples, "top5_overlap"),
        "true_probability": {
            "mean_change": _weighted(samples, lambda s: s.details["true_probability_change"]),
            "rms_change": math.sqrt(_pooled(samples, "true_probability_rms")),
        },
        "buckets": _pooled_buckets(samples),
    }


def percentile(ordered: Sequence[float], share: float) -> float:
    """Percentile by linear interpolation between order statistics: NumPy's 'linear', Hyndman and
    Fan 1996 type 7. ``ordered`` ascends; ``share`` is in 0…1.
    """
    if not ordered:
        raise ValueError("a percentile needs at least one value")
    if not 0 <= share <= 1:
        raise ValueError(f"the percentile's share is {share}; it lies between 0 and 1")
    place = share * (len(ordered) - 1)
    index = math.floor(place)
    fraction = place - index
    low, high = ordered[index], ordered[min(index + 1, len(ordered) - 1)]
    if low == high or fraction == 0:  # also where both are infinite
        return low
    return low + (high - low) * fraction


def _kl_tail(samples: Sequence[Sample]) -> dict[str, float]:
    values = sorted(value for sample in samples for value in sample.tokens["kl"])
    tail = {name: percentile(values, share) for name, share in _PERCENTILES.items()}
    return {**tail, "max": values[-1]}


def _kl_off(samples: Sequence[Sample]) -> dict[str, float]:
    """What the mean may be off by, where the reference's scores are compact."""
    if not any("kl_off" in sample.details for sample in samples):
        return {}
    return {"off": _weighted(samples, lambda sample: sample.details.get("kl_off", 0.0))}


def _perplexity(samples: Sequence[Sample], tokens: int) -> dict[str, float]:
    reference, candidate = (
        math.fsum(sample.details[name] for sample in samples) / tokens
        for name in ("reference_nll", "candidate_nll")
    )
    return {
        "reference": _exp(reference),
        "candidate": _exp(candidate),
        "ratio": _exp(candidate - reference),
    }


def _exp(exponent: float) -> float:
    try:
        return math.exp(exponent)
    except OverflowError:
        return math.inf


def _pooled(samples: Sequence[Sample], metric: str) -> float:
    return _weighted(samples, lambda sample: sample.values[metric])


def _weighted(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    """Mean over tokens of a mean over each document's tokens."""
    total = sum(sample.weight for sample in samples)
    return math.fsum(sample.weight * value(sample) for sample in samples) / total


def _pooled_buckets(samples: Sequence[Sample]) -> list[dict[str, float]]:
    parts = zip(*(sample.details["buckets"] for sample in samples), strict=True)
    edges = itertools.pairwise(CONFIDENCE_EDGES)
    return [
        {"from": low, "to": high, **_pooled_bucket(part)}
        for (low, high), part in zip(edges, parts, strict=True)
    ]


def _pooled_bucket(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    filled = [part for part in parts if part["count"]]
    count = sum(part["count"] for part in filled)
    if not count:
        return {"count": 0}
    means = {
        name: math.fsum(part["count"] * part[name] for part in filled) / count
        for name in ("kl_mean", "top1_agreement")
    }
    return {"count": count, **means}
