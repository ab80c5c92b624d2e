"""Before measuring: how many units a PASS takes at best, asked of the tests that will judge."""

from __future__ import annotations

import math
from functools import cache

from ..metrics.budget import Budget
from ..metrics.metric import Rule
from .e_process import MeanBelow
from .protocol import Value
from .rules import make_test

__all__ = ["fewest_to_pass"]

_READINGS = 2  # of a deterministic number
_MOST = 1 << 16  # units beyond which nobody plans


def fewest_to_pass(budget: Budget, alpha_pass: float, tokens: int = 512) -> int:
    """Units (documents, pairs, prompts, readings) without which PASS is impossible.

    Reached where every unit is flawless: all pairs on the good side, no value beyond the limit.
    ``tokens`` is how many values a unit holds; a unit of few can prove less, because each value is
    a larger part of it. At alpha 0.01 and 512 tokens: 25 documents for a mean, 14 for a share that
    should be high, 9 pairs for a ratio, 126 requests for a 95 % quantile and 645 for a 99 % one,
    268 items for a loss of accuracy of 2 %. 1 for rule WORST, which needs whatever was planned, and
    for a mean limited to 0.
    """
    metric = budget.metric
    match metric.rule:
        case Rule.EXACT:
            return _READINGS
        case Rule.WORST:
            return 1
        case Rule.PROPORTION:
            bad = 1 - budget.limit if metric.higher_is_better else budget.limit
            # None of n trials is bad with probability (1 − bad)ⁿ.
            return math.ceil(math.log(alpha_pass) / math.log1p(-bad)) if 0 < bad < 1 else 1
        case Rule.PAIRED:
            from .paired import fewest_items  # brings numpy

            return fewest_items(metric, budget.limit, alpha_pass)
    return _fewest_of(budget, alpha_pass, _flawless(budget, max(1, tokens)), max(1, tokens))


def _fewest_of(budget: Budget, alpha_pass: float, value: Value, weight: int) -> int:
    """Units of that value after which the budget passes."""
    test = make_test(budget.metric, budget.limit, planned=1)
    while test.p_pass > alpha_pass and test.units < _MOST:
        test.update(value, weight=weight)
    return test.units


@cache
def fewest_that_count(budget: Budget, alpha_pass: float) -> int:
    """Samples below which a limit only estimates: as many as an equal candidate needs to pass a
    default one of a metric that asks for it; 0 of all other limits. See `Metric`."""
    if not (budget.is_default and budget.metric.default_if_decidable):
        return 0
    if budget.metric.rule is Rule.LOG_MEAN and budget.limit != 1:
        return _fewest_of(budget, alpha_pass, 0.0, 1)
    return fewest_to_pass(budget, alpha_pass)


def spared(budget: Budget, alpha_pass: float, samples: int) -> str:
    """Why a default limit does not count on so many samples, or ""."""
    fewest = fewest_that_count(budget, alpha_pass)
    if fewest <= samples:
        return ""
    return (
        f"{budget.metric.name} is only estimated on {samples} samples: a PASS of its default limit "
        f"({budget.describe()}) takes {fewest}; write the limit to have it judged"
    )


def _flawless(budget: Budget, tokens: int) -> Value:
    """The best value that a unit can have."""
    metric = budget.metric
    if metric.rule in (Rule.SIGN, Rule.LOG_MEAN):
        return math.inf if metric.higher_is_better else -math.inf
    best = 1.0 if metric.higher_is_better else 0.0
    if metric.rule is Rule.EXCEEDANCE:
        return [best] * (1 if metric.single_valued else tokens)
    return best


def fewest_documents(alpha_pass: float) -> int:
    """Units without any harm that show a mean to be within its limit: 25 at alpha 0.01."""
    process = MeanBelow(1.0)
    while process.p > alpha_pass:
        process.observe(0.0, 5.0)
    return process.n
