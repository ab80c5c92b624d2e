"""What speculative decoding would bring: tokens a pass, and speed-up against k and acceptance.

    α      how often a drafted token is accepted, each by itself
    c      time of a draft's pass over that of a target's pass
    E      = (1 − α^(k+1)) / (1 − α),  tokens a pass of the target
    S      = E / (c · k + v),          speed-up; v is a pass of k + 1 tokens over one of one token

Contract. `simulate` plays passes token by token and knows neither formula. It has the ends that
they leave out: a last pass drafts no more than there is room for.
Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", equation
1 and theorem 3.8 (with v = 1).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from .statistics import SpeculativeStatistics


def expected_tokens(acceptance: float, lookahead: int) -> float:
    """Tokens that a pass of the target emits on average."""
    return sum(acceptance**i for i in range(lookahead + 1))


def expected_speed_up(
    acceptance: float, lookahead: int, draft_cost: float, verification_cost: float = 1.0
) -> float:
    """How many times faster than plain decoding; costs are in passes of one token of the target."""
    return expected_tokens(acceptance, lookahead) / (lookahead * draft_cost + verification_cost)


def implied_acceptance(tokens_per_pass: float, lookahead: int) -> float:
    """The α with which a pass emits so many tokens on average: `expected_tokens` backwards.

    Not the share of drafted tokens that is emitted: what stands behind a rejected one is drafted,
    and never gets its chance.

    Raises:
        ValueError: a pass emits 1 to ``lookahead + 1`` tokens, and these are others.
    """
    if not (lookahead >= 1 and 1 <= tokens_per_pass <= lookahead + 1):
        raise ValueError(
            f"tokens_per_pass is {tokens_per_pass} and lookahead {lookahead}; a pass with drafted "
            "tokens emits between 1 and lookahead + 1"
        )
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        too_few = expected_tokens(middle, lookahead) < tokens_per_pass
        low, high = (middle, high) if too_few else (low, middle)
    return (low + high) / 2


def best_lookahead(acceptance: float, draft_cost: float, most: int = 16) -> int:
    """The lookahead, up to ``most``, with the largest `expected_speed_up`; 0 where none pays."""
    return max(range(most + 1), key=lambda k: expected_speed_up(acceptance, k, draft_cost))


@dataclass(frozen=True)
class PassCosts:
    """Seconds of a pass.

    Args:
        target: of the target over so many new tokens.
        draft: of the draft over one.
    """

    target: Callable[[int], float]
    draft: float


@dataclass(frozen=True)
class SimulatedDecoding:
    """What a simulated output took, and what plain decoding would have taken."""

    statistics: SpeculativeStatistics
    seconds: float
    plain_seconds: float

    @property
    def speed_up(self) -> float:
        return self.plain_seconds / self.seconds


def simulate(
    acceptance: float, lookahead: int, num_tokens: int, costs: PassCosts, seed: int = 0
) -> SimulatedDecoding:
    """One output of ``num_tokens`` tokens, whose drafts are accepted with a probability.

    Raises:
        ValueError: a number is out of its range.
    """
    if not 0 <= acceptance <= 1:
        raise ValueError(f"acceptance is {acceptance}; give a share from 0 to 1")
    if lookahead < 0 or num_tokens < 1:
        raise ValueError(
            f"lookahead is {lookahead} and num_tokens {num_tokens}; give 0 or more, and 1 or more"
        )
    luck = random.Random(seed)
    counted, seconds = SpeculativeStatistics(), 0.0
    while counted.emitted < num_tokens:
        drafted = min(lookahead, num_tokens - counted.emitted - 1)
        accepted = 0
        while accepted < drafted and luck.random() < acceptance:
            accepted += 1
        counted += SpeculativeStatistics(1, drafted, accepted, accepted + 1)
        seconds += drafted * costs.draft + costs.target(drafted + 1)
    return SimulatedDecoding(counted, seconds, num_tokens * costs.target(1))
