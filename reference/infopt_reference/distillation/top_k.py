"""A teacher of whom only the k likeliest tokens are known, as servers give them.

    known      the k tokens, each with its log-probability
    the tail   all others, as one outcome: log(1 − Σ p)

Contract. Student and teacher are compared on k + 1 outcomes: the student's mass on all other tokens
stands against the teacher's. Their divergence is at most that of the whole vocabularies, grows with
k, and is the same at k = V. Dropping the tail, or scaling the k up to 1, would reward a student for
saying what the teacher never says.
Leaves out: temperature of stored log-probabilities. They are taken at the temperature of the loss,
because the tail at another one cannot be known.

Source: Hinton et al. 2015, arXiv:1503.02531; the log-sum inequality (Cover & Thomas, 2.7).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .divergence import computed, log_of_sum


@dataclass(frozen=True)
class TopKTargets:
    """The likeliest tokens of a teacher at each position.

    Args:
        tokens: ids [B, S, k], none twice at a position.
        log_probabilities: [B, S, k], of the whole vocabulary's softmax.
        vocabulary: V.
        temperature: at which the softmax was taken.

    Raises:
        ValueError: the shapes differ, k is more than V, or an id is out of the vocabulary.
    """

    tokens: Tensor
    log_probabilities: Tensor
    vocabulary: int
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.tokens.shape != self.log_probabilities.shape:
            raise ValueError(
                f"tokens have the shape {tuple(self.tokens.shape)}, log-probabilities "
                f"{tuple(self.log_probabilities.shape)}; both are [B, S, k]"
            )
        if self.tokens.shape[-1] > self.vocabulary:
            raise ValueError(f"{self.tokens.shape[-1]} tokens of a vocabulary of {self.vocabulary}")
        if ((self.tokens < 0) | (self.tokens >= self.vocabulary)).any():
            raise ValueError(f"an id is not within the vocabulary of {self.vocabulary}")

    @classmethod
    def of_logits(cls, logits: Tensor, k: int, temperature: float = 1.0) -> TopKTargets:
        """Those of logits [B, S, V]."""
        # Of a softmax in bfloat16, the k likeliest can sum to more than 1.
        found = (computed(logits) / temperature).log_softmax(dim=-1).topk(k, dim=-1)
        return cls(found.indices, found.values, logits.shape[-1], temperature)

    @property
    def log_probabilities_with_tail(self) -> Tensor:
        """[B, S, k + 1], or [B, S, V] where there is no tail."""
        known = self.log_probabilities
        if known.shape[-1] == self.vocabulary:
            return known
        # Rounding can bring the sum of the known to 1.
        rest = (-torch.expm1(known.logsumexp(dim=-1, keepdim=True))).clamp(min=0)
        return torch.cat([known, rest.log()], dim=-1)

    def outcomes_of(self, log_probabilities: Tensor) -> Tensor:
        """A student's log-probabilities [B, S, V] on the same k + 1 outcomes."""
        known = log_probabilities.gather(-1, self.tokens)
        if known.shape[-1] == self.vocabulary:
            return known
        others = log_probabilities.scatter(-1, self.tokens, -torch.inf)
        return torch.cat([known, log_of_sum(others, dim=-1)[..., None]], dim=-1)
