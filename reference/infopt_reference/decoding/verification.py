"""The rejection rule: which drafted tokens stay, and the token behind them.

    for each drafted token x, drawn from q, in order:
        accept it with probability  min(1, p(x) / q(x))
        else draw from  max(p − q, 0) / Σ max(p − q, 0)  and end
    all accepted: draw one more from the target's next distribution

Contract. What is emitted is distributed exactly as the target's own tokens, whatever q is, if x was
drawn from q. A one-hot q is a token that was chosen and not drawn. With a one-hot p (greedy) the
tokens are the target's, whatever was drafted. Rows do not know of each other.
Sources: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding",
algorithm 1 and appendix A.1; Chen et al. 2023, "Accelerating Large Language Model Decoding with
Speculative Sampling", algorithm 2.
Legend: B rows, K drafted tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .pipeline import drawn


@dataclass(frozen=True)
class Drafts:
    """Drafted tokens of each row, and the distributions that they were drawn from.

    ``probabilities`` [B, K, V] are padded behind a row's last token; None: tokens were chosen by a
    rule, so that each distribution is one-hot.
    """

    tokens: Sequence[Sequence[int]]
    probabilities: Tensor | None = None

    def lengths(self) -> list[int]:
        return [len(row) for row in self.tokens]


@dataclass(frozen=True)
class Uniforms:
    """Numbers of [0, 1) for one pass: for drafting [B, K], accepting [B, K], and the last [B]."""

    draft: Tensor
    accept: Tensor
    last: Tensor

    @classmethod
    def from_generators(
        cls, generators: Sequence[torch.Generator], lengths: Sequence[int]
    ) -> Uniforms:
        """2 · length + 1 numbers of each row's generator."""
        most = max(lengths)
        draft, accept = torch.zeros(2, len(lengths), most, dtype=torch.float64)
        last = torch.empty(len(lengths), dtype=torch.float64)
        for row, (generator, n) in enumerate(zip(generators, lengths, strict=True)):
            numbers = torch.rand(2 * n + 1, generator=generator, dtype=torch.float64)
            draft[row, :n], accept[row, :n], last[row] = numbers[:n], numbers[n:-1], numbers[-1]
        return cls(draft, accept, last)


def verify(drafts: Drafts, chances: Tensor, uniforms: Uniforms) -> list[list[int]]:
    """The accepted tokens of each row, and the one behind them.

    ``chances`` [B, K + 1, V] are the target's distributions behind the row and behind each drafted
    token.
    """
    lengths = torch.tensor(drafts.lengths(), device=chances.device)
    most = chances.shape[1] - 1
    padded = [[*row] + [0] * (most - len(row)) for row in drafts.tokens]
    tokens = torch.tensor(padded, dtype=torch.long, device=chances.device)  # [B, K]
    p = chances[:, :most].gather(-1, tokens[..., None])[..., 0]
    q = drafts.probabilities
    of_draft = torch.ones_like(p) if q is None else q.gather(-1, tokens[..., None])[..., 0]
    within = torch.arange(most, device=chances.device) < lengths[:, None]
    numbers = uniforms.accept[:, :most].to(p.device)  # fewer tokens than asked may be drafted
    accepts = (numbers * of_draft < p) & within
    accepted = accepts.long().cumprod(dim=1).sum(dim=1)  # up to the first that is rejected
    rows = torch.arange(len(padded), device=chances.device)
    weights = chances[rows, accepted]  # [B, V]
    if most:
        at = accepted.clamp(max=most - 1)
        chosen = tokens[rows, at]
        rejected = functional.one_hot(chosen, weights.shape[1]) if q is None else q[rows, at]
        left = (weights - rejected).clamp(min=0)
        # Where p = q but for rounding, nothing may be left; then the rejection was rounding too.
        resampled = (accepted < lengths) & left.any(dim=-1)
        weights = torch.where(resampled[:, None], left, weights)
    last = drawn(weights, uniforms.last).tolist()
    return [
        [*row[:count], token]
        for row, count, token in zip(drafts.tokens, accepted.tolist(), last, strict=True)
    ]
