"""Evidence that values rise in the order in which they were measured."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable

from .e_process import EProcess

__all__ = ["trend_evidence"]

_BETS = (0.4, 0.95)
_MOST = math.log(sys.float_info.max) / 2  # of a logarithm: a thousand rising values go beyond
_RESTART = 8  # values from one beginning of the bets to the next


def trend_evidence(values: Iterable[float]) -> float:
    """The largest e-value against "the order of the values does not matter", for ones that rise.

    Each value's rank among those before it gives a p-value, uniform where the order is random; a
    bet on small ones grows where late values are large (Vovk, Nouretdinov and Gammerman 2003,
    "Testing exchangeability on-line"). Parts of the stake wait for a later beginning, so that what
    sets in late need not make up for what was lost before. P(it ever reaches 1/α) ≤ α by Ville's
    inequality. Ties count against.
    """
    bets, seen, evidence = list[EProcess](), list[float](), 1.0
    for value in values:
        if len(seen) % _RESTART == 0:
            bets.append(EProcess(_BETS))
        seen.append(value)
        p = sum(earlier >= value for earlier in seen) / len(seen)
        for bet in bets:
            bet.update(1 - 2 * p)
        # The j-th beginning has the stake 1/j − 1/(j + 1); what has not begun yet is still there.
        wealth = [math.exp(min(b.log_e, _MOST)) / (j * (j + 1)) for j, b in enumerate(bets, 1)]
        evidence = max(evidence, math.fsum(wealth) + 1 / (len(bets) + 1))
    return evidence
