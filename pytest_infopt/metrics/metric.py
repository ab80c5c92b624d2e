"""A number that a gate measures and a budget can limit.

Each gate declares its own metrics. The judge reads from them which test decides, the configuration
checks budgets' units against them, and reports print their units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


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
    LOG_MEAN = "log_mean"  # betting on the mean of a log ratio, counted within limit⁻²…limit⁴
    EXCEEDANCE = "exceedance"  # share of values beyond the limit against 1 − quantile
    WORST = "worst"  # every planned sample must keep the limit
    EXACT = "exact"  # one deterministic number
    PROPORTION = "proportion"  # independent trials, all planned ones, against a rate
    PAIRED = "paired"  # right and wrong answers of both models: the accuracy lost, or kept


@dataclass(frozen=True)
class Metric:
    """A number that a gate measures.

    ``higher_is_better`` gives the direction of its budget: at least, or at most. ``quantile`` goes
    with EXCEEDANCE: the budget limits that quantile of the values, and ``single_valued`` says that
    a sample holds one value, not a list; ``serial`` that samples come one after another from a
    machine, so that measured dependence between them has to be charged. ``power`` is for MEAN:
    samples carry the mean of the value's power (2: the mean square), budget and reports speak of
    its root. ``self_comparison`` marks what compares the candidate with itself by another path:
    outputs that have the reference's bits do not vouch for it. ``equal`` is the value of a
    candidate equal to the reference, where it makes no sense to ask for better.
    ``default_if_decidable`` says that a limit which nobody wrote does not count where a PASS would
    take more samples than there are, or than the other limits take; the reports say so.
    """

    name: str
    unit: Unit
    rule: Rule
    summary: str
    higher_is_better: bool = False
    quantile: float | None = None
    single_valued: bool = False
    serial: bool = False
    power: int = 1
    self_comparison: bool = False
    equal: float | None = None
    default_if_decidable: bool = False


TAIL: Mapping[str, float] = MappingProxyType({"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99})


def quantiles(
    stem: str,
    unit: Unit,
    what: str,
    levels: Mapping[str, float] = TAIL,
    *,
    single_valued: bool = False,
    serial: bool = False,
    default_if_decidable: bool = False,
) -> tuple[Metric, ...]:
    """A metric for each level of the values that samples carry under ``stem``."""
    return tuple(
        Metric(
            f"{stem}_{name}",
            unit,
            Rule.EXCEEDANCE,
            f"{100 * level:g} % quantile of {what}",
            quantile=level,
            single_valued=single_valued,
            serial=serial,
            default_if_decidable=default_if_decidable,
        )
        for name, level in levels.items()
    )
