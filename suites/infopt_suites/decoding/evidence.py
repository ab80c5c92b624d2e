"""Evidence that tokens were not drawn from the distributions that they should be drawn from.

    e = ∫ Π_i  P(counts_i | π_i)  Dirichlet(π_i | c · p_i) dπ  /  Π_i  P(counts_i | p_i)

is averaged over a few precisions c; i goes through the distinct distributions p_i.

Contract. Where each token is drawn from its p, whatever was drawn before, e has the mean 1 at any
number of tokens, and exceeds 1/α at any time with a probability of at most α (Ville's inequality).
No approximation is in it: counts may be small, chances near 0, tokens may depend on each other. A
token of chance 0 makes it infinite.
Sources: Good 1967, "A Bayesian significance test for multinomial distributions"; Ville 1939;
Ramdas et al. 2023, "Game-theoretic statistics and safe anytime-valid inference", section 3.
Legend: V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

PRECISIONS = (20.0, 300.0, 4000.0)  # c: of alternatives that are far, near, and very near
FALSE_FAIL = 1e-6


class Evidence:
    """Counts of tokens by the distribution that each should be drawn from."""

    def __init__(self) -> None:
        self.counts: dict[tuple[float, ...], list[int]] = {}

    def add(self, chances: tuple[float, ...], token: int) -> None:
        """Count a token that should be drawn from these chances."""
        self.counts.setdefault(chances, [0] * len(chances))[token] += 1

    @property
    def tokens(self) -> int:
        return sum(map(sum, self.counts.values()))

    def log_e(self) -> float:
        """log e: `refuted` where it exceeds log(1/α)."""
        if not self.counts:
            return 0.0
        each = torch.tensor(
            [
                sum(_log_ratio(p, counts, c) for p, counts in self.counts.items())
                for c in PRECISIONS
            ],
            dtype=torch.float64,
        )
        return float(each.logsumexp(0)) - math.log(len(PRECISIONS))

    @property
    def refuted(self) -> bool:
        return self.log_e() > -math.log(FALSE_FAIL)

    def worst(self) -> str:
        """The token whose share is furthest from its chance, in standard errors."""
        far = []
        for chances, counts in self.counts.items():
            total = sum(counts)
            for token, (p, n) in enumerate(zip(chances, counts, strict=True)):
                error = math.sqrt(max(p * (1 - p), 1e-300) / total)
                far.append((abs(n / total - p) / error, token, p, n, total))
        _, token, p, n, total = max(far)
        return f"token {token} has the chance {p:.4g} and came {n} of {total} times"


def _log_ratio(chances: Sequence[float], counts: Sequence[int], precision: float) -> float:
    """log of the Dirichlet-multinomial over the multinomial chance of counts."""
    p: Tensor = torch.tensor(chances, dtype=torch.float64)
    n = torch.tensor(counts, dtype=torch.float64)
    if bool(((p == 0) & (n > 0)).any()):
        return math.inf
    p, n = p[p > 0], n[p > 0]
    total, prior = n.sum(), precision * p
    marginal = (
        torch.lgamma(torch.tensor(precision, dtype=torch.float64))
        - torch.lgamma(precision + total)
        + (torch.lgamma(prior + n) - torch.lgamma(prior)).sum()
    )
    return float(marginal - (n * p.log()).sum())
