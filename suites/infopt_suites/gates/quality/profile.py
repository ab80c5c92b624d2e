"""Whether quality depends on where a token stands, or on when a document was measured.

Two ways of losing quality that a mean over documents hides: what is wrong from a position on (a
table of rotations that ends, a window, a cache that wraps around), and what gets worse during the
session. Imports nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from pytest_infopt import MeasuredTable, Plot, Sample
from pytest_infopt.judge.trend import trend_evidence

PARTS = 16  # of the longest document
FEWEST_TOKENS = 4  # of a part: single tokens' divergences are heavy-tailed
RESOLUTION = 2.0**-23  # nats below which a divergence that was computed in float32 is not known
IMPOSSIBLE = 746.0  # nats: what has a probability that float64 does not hold
OF_EACH_LENGTH = 4  # documents


@dataclass(frozen=True)
class PositionPart:
    """Predictions ``start``…``stop`` − 1 of all documents that reach so far.

    ``ratio`` is the median over these documents of the part's mean divergence over that of the
    document's other positions.
    """

    start: int
    stop: int
    documents: int
    kl_mean: float
    ratio: float


def position_parts(samples: Sequence[Sample]) -> list[PositionPart]:
    """Equal parts of the longest document, each with what documents lose there."""
    curves = [[min(kl, IMPOSSIBLE) for kl in sample.tokens["kl"]] for sample in samples]
    longest = max(map(len, curves))
    width = max(FEWEST_TOKENS, math.ceil(longest / PARTS))
    parts = []
    for start in range(0, longest, width):
        stop = start + width
        # A document's rest of a part is no part, unless nobody has more of it.
        full = [c for c in curves if len(c) >= min(stop, longest) and len(c) > width]
        if full:
            inside = [math.fsum(c[start:stop]) / len(c[start:stop]) for c in full]
            ratios = [_ratio(mean, c, start, stop) for mean, c in zip(inside, full, strict=True)]
            mean = math.fsum(inside) / len(full)
            parts.append(PositionPart(start, min(stop, longest), len(full), mean, median(ratios)))
    return parts


def _ratio(inside: float, curve: Sequence[float], start: int, stop: int) -> float:
    others = [*curve[:start], *curve[stop:]]
    return (inside + RESOLUTION) / (math.fsum(others) / len(others) + RESOLUTION)


def missing_lengths(lengths: Mapping[str, int], measured: Iterable[str]) -> list[str]:
    """Documents to measure so that each octave of lengths has some, in their order.

    Early stops decide the mean; a long document that came late would never be looked at.
    """
    done, found = set(measured), list[str]()
    seen: dict[int, int] = {}
    for name in done:
        seen[_octave(lengths[name])] = seen.get(_octave(lengths[name]), 0) + 1
    for name, tokens in lengths.items():
        octave = _octave(tokens)
        if name not in done and seen.get(octave, 0) < OF_EACH_LENGTH:
            seen[octave] = seen.get(octave, 0) + 1
            found.append(name)
    return found


def _octave(tokens: int) -> int:
    return tokens.bit_length()


def profile(in_order: Sequence[Sample], more: Sequence[Sample] = ()) -> Sample:
    """``kl_position_ratio``, the largest of all parts, and ``kl_trend`` of the documents that were
    measured in a random order; ``more`` have been chosen for their lengths."""
    samples = [*in_order, *more]
    parts = position_parts(samples)
    values = {"kl_trend": trend_evidence(sample.values["kl_mean"] for sample in in_order)}
    if parts:
        values["kl_position_ratio"] = max(part.ratio for part in parts)
    return Sample(
        unit="profile",
        weight=sum(sample.weight for sample in samples),
        values=values,
        identical=all(sample.identical for sample in samples),
        details={"tables": [_table(parts).to_json()]},
    )


def _table(parts: Sequence[PositionPart]) -> MeasuredTable:
    rows = tuple((f"{p.start + 1}…{p.stop}", p.documents, p.kl_mean, p.ratio) for p in parts)
    columns = ("positions", "documents", "KL, nats", "against the document's others")
    plot = Plot("positions", ("KL, nats",), "KL(reference ‖ candidate), nats", ordered=True)
    return MeasuredTable("divergence by position", columns, rows, plot=plot)
