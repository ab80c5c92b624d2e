"""From A/A measurements to floors, and to the margins that are proposed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from pytest_infopt import Sample

# A margin of so many standard deviations between instances (STATISTICS 2.4): a median that an
# instance alone moves so far is one in a hundred.
OF_INSTANCES = 2.5
OF_OUTPUTS = 2.0  # times what was seen: SPEC section 5's factor for outputs
OUTPUTS = ("kl_mean", "top1_agreement", "perplexity_ratio")
RATIOS = ("ttft_ratio", "tpot_ratio", "e2e_ratio")


@dataclass(frozen=True)
class Noise:
    """``margin`` of a metric when only ``cause`` was changed; ``factor`` times it is proposed."""

    metric: str
    cause: str
    margin: float
    factor: float
    dtype: str = ""


def of_outputs(samples: Mapping[str, Sequence[Sample]]) -> list[Noise]:
    """The largest of all arms, by metric; an arm that changes the dtype bounds the limits of
    candidates in that dtype alone."""
    found: dict[tuple[str, str], Noise] = {}
    for arm, documents in samples.items():
        dtype = arm.partition("dtype ")[2]
        for metric in OUTPUTS:
            noise = Noise(metric, arm, _margin(metric, documents), OF_OUTPUTS, dtype)
            known = found.get((metric, dtype))
            if known is None or noise.margin > known.margin:
                found[metric, dtype] = noise
    return list(found.values())


def of_times(instances: Sequence[Sequence[Sample]]) -> list[Noise]:
    """By the root mean square of the instances' medians of ln(second / first)."""
    found = []
    for metric in RATIOS:
        medians = [median(values) for each in instances if (values := list(_of(metric, each)))]
        if not medians:
            continue
        spread = math.sqrt(math.fsum(each**2 for each in medians) / len(medians))
        margin = math.expm1(max(OF_INSTANCES * spread, *map(abs, medians)))
        # The mean of pairs wanders with the same instances.
        names = (metric, metric.replace("ratio", "mean_ratio"))
        found += [Noise(name, "instance", margin, 1.0) for name in names]
    return found


def _margin(metric: str, documents: Sequence[Sample]) -> float:
    values = list(_of(metric, documents))
    if not values:
        return 0.0
    mean = math.fsum(values) / len(values)
    if metric == "top1_agreement":
        return 1.0 - mean
    return math.expm1(abs(mean)) if metric == "perplexity_ratio" else mean


def _of(metric: str, samples: Iterable[Sample]) -> Iterable[float]:
    return (sample.values[metric] for sample in samples if metric in sample.values)
