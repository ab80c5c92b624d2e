"""Verdicts of the judge on many sessions at once, and of one after another where it cannot be so.

The arrays do what `pytest_infopt.judge` does, session by session; the tests hold them together.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pytest_infopt.gates.registry import metrics
from pytest_infopt.judge import paired as paired_rule
from pytest_infopt.judge.e_process import ABOVE_BETS, BELOW_BETS, SIGN_PROBABILITIES
from pytest_infopt.judge.log_mean import BETS, LogMeanTest
from pytest_infopt.judge.rules import make_test
from pytest_infopt.judge.trinomial import loss_p_value

ALPHA = 0.01
Values = NDArray[np.float64]
Verdicts = tuple[float, float]  # the shares of sessions that ended in PASS, and in FAIL


def mean(documents: Values, limit: float, clip: float, floor: float = 0.0) -> Verdicts:
    """Rule MEAN; ``floor`` is what a few tokens of a unit amount to."""
    bound = max(clip * limit, floor)
    cut = np.maximum(documents - bound, 0).cumsum(axis=1)
    charge = np.zeros_like(documents)
    charge[:, 1:] = cut[:, :-1] / np.arange(1, documents.shape[1])
    below = (limit - np.minimum(documents + charge, bound)) / (bound - limit)
    return _shares(_crossing(below, BELOW_BETS), _crossing((documents - limit) / limit, ABOVE_BETS))


def sign(ratios: Values, limit: float) -> Verdicts:
    """Rule SIGN on logarithms of ratios."""
    return _shares(*sign_crossings(ratios, limit))


def sign_crossings(ratios: Values, limit: float) -> tuple[Values, Values]:
    """After how many pairs each session has evidence for PASS, and for FAIL."""
    bets = [2 * p - 1 for p in SIGN_PROBABILITIES]
    excess = ratios - math.log(limit)
    below, above = np.where(excess < 0, 1.0, -1.0), np.where(excess > 0, 1.0, -1.0)
    return _crossing(below, bets), _crossing(above, bets)


def log_mean(ratios: Values, limit: float) -> Verdicts:
    """Rule LOG_MEAN on logarithms of ratios."""
    return _shares(*log_mean_crossings(ratios, limit))


def log_mean_crossings(ratios: Values, limit: float) -> tuple[Values, Values]:
    """As `sign_crossings`."""
    width = LogMeanTest(metrics()["tpot_mean_ratio"], limit).width
    gains = ((ratios - math.log(limit)) / width).clip(-1, 1)
    return _crossing(-gains, BETS), _crossing(gains, BETS)


def one_by_one(name: str, rows: Values, limit: float) -> Verdicts:
    """Any metric, by the judge itself."""
    passed = failed = 0
    for row in rows.tolist():
        test = make_test(metrics()[name], limit, len(row))
        for value in row:
            test.update(value)
            if min(test.p_pass, test.p_fail) <= ALPHA:
                break
        passed += test.p_pass <= ALPHA < test.p_fail
        failed += test.p_fail <= ALPHA
    return passed / len(rows), failed / len(rows)


def paired(losses: Values, limit: float) -> Verdicts:
    """Rule PAIRED on items of their own: 1 where the reference alone answers right, −1 where the
    candidate alone does, else 0."""
    early, end = paired_rule.EARLY * ALPHA, (1 - paired_rule.EARLY) * ALPHA
    items = losses.shape[1]
    lost, gained = (losses > 0).sum(axis=1), (losses < 0).sum(axis=1)
    ends = []
    for side, ours, others in ((1, lost, gained), (-1, gained, lost)):
        gains = side * (limit - losses) / (1 - side * limit)
        crossing = _crossing(gains, paired_rule.BETS, early)
        for session in np.flatnonzero(np.isinf(crossing)):
            p = loss_p_value(int(ours[session]), int(others[session]), items, side * limit)
            crossing[session] = items - 1 if p <= end else math.inf
        ends.append(crossing)
    return _shares(*ends)


def _crossing(gains: Values, bets: tuple[float, ...] | list[float], alpha: float = ALPHA) -> Values:
    """After how many units a session's wealth reaches 1/α; infinity where it never does."""
    logs = np.stack([np.log1p(bet * gains).cumsum(axis=1) for bet in bets])
    wealth = np.logaddexp.reduce(logs, axis=0) - math.log(len(bets))
    reached = wealth >= -math.log(alpha)
    return np.where(reached.any(axis=1), reached.argmax(axis=1), math.inf)


def _shares(passing: Values, failing: Values) -> Verdicts:
    passed, failed = passing < failing, (failing <= passing) & np.isfinite(failing)
    return float(passed.mean()), float(failed.mean())
