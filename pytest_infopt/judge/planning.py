"""Before measuring: how many units a PASS takes at best, by the arithmetic of the bets alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..metrics.budget import Budget
from ..metrics.metric import Rule, Unit
from .e_process import BELOW_BETS, BERNOULLI_BELOW_BETS, SIGN_PROBABILITIES, EProcess
from .exceedance import allowed_share
from .mean import clip_factor

_READINGS = 2  # of a deterministic number


def fewest_to_pass(budget: Budget, alpha_pass: float) -> int:
    """Units (documents, pairs, prompts, readings) without which PASS is impossible.

    Reached where every unit is flawless: all pairs on the good side, no value beyond the limit. At
    alpha 0.01: 25 documents for a mean, 14 for a share that should be high, 9 pairs for a ratio,
    126 requests for a 95 % quantile and 645 for a 99 % one. 1 for rule WORST, which needs whatever
    was planned, and for a mean limited to 0.
    """
    metric = budget.metric
    match metric.rule:
        case Rule.MEAN:
            if budget.limit == (1 if metric.higher_is_better else 0):
                return 1
            m = 1 - budget.limit if metric.higher_is_better else budget.limit**metric.power
            bound = clip_factor(metric) * m
            return _steps(BELOW_BETS, _flawless(m, bound, metric.unit), alpha_pass)
        case Rule.SIGN:
            return _steps([2 * p - 1 for p in SIGN_PROBABILITIES], 1.0, alpha_pass)
        case Rule.EXCEEDANCE:
            m = allowed_share(metric)
            if metric.single_valued:
                return _steps(BERNOULLI_BELOW_BETS, m / (1 - m), alpha_pass)
            return _steps(BELOW_BETS, _flawless(m, 5 * m, Unit.SHARE), alpha_pass)
        case Rule.EXACT:
            return _READINGS
        case Rule.WORST:
            return 1
        case Rule.PROPORTION:
            bad = 1 - budget.limit if metric.higher_is_better else budget.limit
            # None of n trials is bad with probability (1 − bad)ⁿ.
            return math.ceil(math.log(alpha_pass) / math.log1p(-bad)) if 0 < bad < 1 else 1


def fewest_documents(alpha_pass: float) -> int:
    """Units without any harm that show a mean to be within its limit: 25 at alpha 0.01."""
    return _steps(BELOW_BETS, _flawless(1.0, 5.0, Unit.NATS), alpha_pass)


def _flawless(m: float, bound: float, unit: Unit) -> float:
    """The gain of a unit whose Y is 0."""
    return m / ((min(bound, 1.0) if unit is Unit.SHARE else bound) - m)


def _steps(bets: Sequence[float], gain: float, alpha: float) -> int:
    """The fewest equal gains that multiply the stake to 1/alpha."""
    process = EProcess(bets)
    while process.p > alpha:
        process.update(gain)
    return process.n
