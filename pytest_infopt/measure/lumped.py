"""Divergence of two distributions of which only some probabilities are known.

Servers tell the log-probabilities of a few tokens. With those tokens S that both models tell, and
everything else lumped into one bucket of probability P(rest) = 1 − P(S),

    KL_S(p ‖ q) = Σ_{i ∈ S} p_i · (log p_i − log q_i) + p_rest · (log p_rest − log q_rest)

is at most KL(p ‖ q): lumping outcomes is a channel, and no channel raises a divergence
(data-processing inequality; Cover and Thomas, Elements of Information Theory, theorem 2.8.1 and
section 4.4). It is a lower bound for any S, so also for one that depends on the models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

Row = Mapping[int, float]  # log-probabilities in nats by token id
_EPS = 2.0**-23  # of float32, in which servers tell them


def lumped_divergence(p: Row, q: Row) -> float:
    """KL_S(p ‖ q) in nats of two positions, S the tokens in both, exact up to the rounding of the
    rest: 1 − P(S) is known to |S| roundings of float32, and is taken for no less."""
    shared = p.keys() & q.keys()
    least = max(1, len(shared)) * _EPS
    rest_p, rest_q = (
        max(least, 1 - math.fsum(math.exp(row[token]) for token in shared)) for row in (p, q)
    )
    terms = [math.exp(p[token]) * (p[token] - q[token]) for token in shared if p[token] > -math.inf]
    return max(0.0, math.fsum([*terms, rest_p * (math.log(rest_p) - math.log(rest_q))]))


def best_token(row: Row) -> int:
    """The most probable token of a position; of tied ones the lowest id, as greedy decoding."""
    return min(row, key=lambda token: (-row[token], token))
