"""What a candidate loses, by document, by the reference's confidence and by size of the loss.

For people, as `summary` is; result.json has the numbers that the reports draw. Imports nothing
heavy.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_infopt import MeasuredTable, Plot, Sample

MOST_DOCUMENTS = 60  # that a bar each leaves readable
_KL = "KL, nats"
_AXIS = "KL(reference ‖ candidate), nats"
_LOWEST, _HIGHEST = -8, 2  # powers of ten of nats between which tokens are counted
_STEPS = 2  # to a power of ten


def document_table(samples: Sequence[Sample]) -> MeasuredTable:
    """Each document's mean loss, the largest first."""
    ordered = sorted(samples, key=lambda sample: sample.values["kl_mean"], reverse=True)
    rows = tuple(
        (s.unit, s.weight, s.values["kl_mean"], s.values["top1_agreement"])
        for s in ordered[:MOST_DOCUMENTS]
    )
    part = "" if len(rows) == len(ordered) else f", the {len(rows)} worst of {len(ordered)}"
    return MeasuredTable(
        f"divergence by document{part}",
        ("document", "tokens", _KL, "top-1 agreement"),
        rows,
        plot=Plot("document", (_KL,), _AXIS, "bar", ordered=True),
    )


def confidence_table(buckets: Sequence[Mapping[str, float]]) -> MeasuredTable:
    """The pooled buckets of `summary.summarise`."""
    rows = tuple(
        (
            f"{bucket['from']:g}…{bucket['to']:g}",
            int(bucket["count"]),
            bucket.get("kl_mean"),
            bucket.get("top1_agreement"),
        )
        for bucket in buckets
    )
    place = "reference's largest probability"
    return MeasuredTable(
        "divergence by the reference's confidence",
        (place, "tokens", _KL, "top-1 agreement"),
        rows,
        plot=Plot(place, (_KL,), _AXIS, "bar", ordered=True),
    )


def distribution_table(samples: Sequence[Sample]) -> MeasuredTable:
    """How many tokens lose how much: counts between steps of a logarithmic scale."""
    edges = [10 ** (step / _STEPS) for step in range(_LOWEST * _STEPS, _HIGHEST * _STEPS + 1)]
    counts = [0] * (len(edges) + 1)
    for value in itertools.chain.from_iterable(sample.tokens["kl"] for sample in samples):
        counts[len(edges) if math.isnan(value) else bisect_right(edges, value)] += 1
    total, starts = sum(counts), [0.0, *edges]
    filled = [index for index, count in enumerate(counts) if count]
    rows = tuple(
        (f"{starts[index]:.1g}", counts[index], counts[index] / total)
        for index in range(filled[0], filled[-1] + 1)
    )
    place = "KL from, nats"
    return MeasuredTable(
        "distribution of the divergence",
        (place, "tokens", "share of tokens"),
        rows,
        plot=Plot(place, ("share of tokens",), "share of tokens", "bar", ordered=True),
    )


def quality_tables(samples: Sequence[Sample], summary: Mapping[str, Any]) -> list[MeasuredTable]:
    return [
        distribution_table(samples),
        confidence_table(summary["buckets"]),
        document_table(samples),
    ]
