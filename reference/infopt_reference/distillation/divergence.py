"""Divergences between a student's and a teacher's next tokens, one value a token.

    forward KL   Σ p_teacher · (log p_teacher − log p_student)    covers all that the teacher says
    reverse KL   Σ p_student · (log p_student − log p_teacher)    says nothing that it would not
    JSD(β)       β · KL(teacher ‖ m) + (1 − β) · KL(student ‖ m),  m = β teacher + (1 − β) student

Contract. Log-probabilities [..., V] of both give values [...], ≥ 0 and 0 where both are equal. A
token that both rule out (−∞) adds nothing to value and gradient. A token that only the second
distribution of a KL rules out makes it infinite, which JSD never is.

Source: Hinton et al. 2015, arXiv:1503.02531; Agarwal et al. 2024, arXiv:2306.13649 (GKD), eq. 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Divergence(Protocol):
    """How far a student is from its teacher, at each token."""

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Values [...] of log-probabilities [..., V]."""


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) [...] of log-probabilities [..., V]."""
    return _kl(teacher, student)


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(student ‖ teacher) [...] of log-probabilities [..., V]."""
    return _kl(student, teacher)


@dataclass(frozen=True)
class JensenShannon:
    """JSD(β). At the ends, where JSD itself is 0, GKD takes what it tends to when divided by β
    or 1 − β: β = 0 is the forward KL, β = 1 the reverse.

    Raises:
        ValueError: β is not within [0, 1].
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"β is {self.beta}; it has to be within [0, 1]")

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.beta == 0:
            return forward_kl(student, teacher)
        if self.beta == 1:
            return reverse_kl(student, teacher)
        parts = [student + math.log1p(-self.beta), teacher + math.log(self.beta)]
        mixture = log_of_sum(torch.stack(parts), dim=0)
        return self.beta * _kl(teacher, mixture) + (1 - self.beta) * _kl(student, mixture)


def computed(values: Tensor) -> Tensor:
    """Values in a dtype whose sums over a vocabulary hold: float32, or float64 if they have it."""
    return values if values.dtype is torch.float64 else values.float()


def log_of_sum(log_probabilities: Tensor, dim: int) -> Tensor:
    """log Σ p along a dimension; −∞, with a gradient of 0, where every p is 0.

    torch's logsumexp has a gradient of NaN there.
    """
    none = log_probabilities.isneginf().all(dim, keepdim=True)
    summed = log_probabilities.masked_fill(none, 0).logsumexp(dim, keepdim=True)
    return summed.masked_fill(none, -math.inf).squeeze(dim)


def _kl(first: Tensor, second: Tensor) -> Tensor:
    """Σ p · (log p − log q); 0 · (−∞) is 0, in the gradient too."""
    difference = (first - second).masked_fill(first.isneginf(), 0)
    return (first.exp() * difference).sum(dim=-1)
