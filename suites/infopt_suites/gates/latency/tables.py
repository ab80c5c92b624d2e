"""Timed pairs and percentiles of both models, for people; result.json has the numbers.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import quantiles

from pytest_infopt import MeasuredTable, Plot, Sample

MOST_PAIRS = 200  # that a plot shows; of more, evenly chosen ones
PERCENTILES = (50, 75, 90, 95, 99)
_RATIOS = {"ttft_ratio": "first token", "tpot_ratio": "each further token"}
_TIMES = {"ttft": "TTFT", "tpot": "TPOT"}


def latency_tables(samples: Sequence[Sample]) -> list[MeasuredTable]:
    return [pair_table(samples), *(_percentiles(samples, stem) for stem in _TIMES)]


def pair_table(samples: Sequence[Sample]) -> MeasuredTable:
    """Candidate / reference of each pair, in the order of measuring."""
    step = max(1, math.ceil(len(samples) / MOST_PAIRS))
    rows = tuple(
        (
            number,
            "candidate" if sample.details["candidate_first"] else "reference",
            *(_ratio(sample, name) for name in _RATIOS),
        )
        for number, sample in enumerate(samples, 1)
        if number % step == 0
    )
    columns = ("pair", "first", *_RATIOS.values())
    return MeasuredTable(
        "timed pairs",
        columns,
        rows,
        plot=Plot("pair", columns[2:], "candidate / reference", "point", log_y=True, limit=1.0),
    )


def _ratio(sample: Sample, name: str) -> float | None:
    return math.exp(sample.values[name]) if name in sample.values else None


def _percentiles(samples: Sequence[Sample], stem: str) -> MeasuredTable:
    """Percentiles by NumPy's 'linear', which is statistics' 'inclusive'."""
    ours = [1000 * each for s in samples for each in s.tokens.get(stem, ())]
    theirs = [1000 * each for s in samples for each in s.details["reference"].get(stem, ())]
    cuts = [
        quantiles(times, n=100, method="inclusive") if len(times) > 1 else None
        for times in (theirs, ours)
    ]
    rows = tuple(
        (f"p{p}", *(None if cut is None else cut[p - 1] for cut in cuts)) for p in PERCENTILES
    )
    columns = ("percentile", "reference", "candidate")
    return MeasuredTable(
        f"{_TIMES[stem]} by percentile, {len(ours)} requests to each model, ms",
        columns,
        rows,
        plot=Plot("percentile", columns[1:], f"{_TIMES[stem]}, ms", ordered=True),
    )
