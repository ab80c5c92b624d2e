"""The combined loss by its definition, in float64, token by token; and what rounding may cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .cases import LossCase, backward

DIVERGENCES = ("forward", "reverse", "jsd", "cross-entropy")


@dataclass(frozen=True)
class Definition:
    """What a loss declares: divergence, β of a JSD, whether T² multiplies, whether it shifts."""

    divergence: str
    beta: float
    squared: bool
    shifted: bool
    ignored: int

    def __post_init__(self) -> None:
        if self.divergence not in DIVERGENCES:
            raise TypeError(f"divergence is {self.divergence!r}, not one of {DIVERGENCES}")

    def counted(self, labels: Tensor) -> Tensor:
        """Bool [B, S]: the positions whose logits the loss is made of."""
        counts = labels != self.ignored
        return following(counts, False) if self.shifted else counts

    def targets(self, labels: Tensor) -> Tensor:
        """[B, S]: what each position's logits predict."""
        return following(labels, self.ignored) if self.shifted else labels

    def loss(self, case: LossCase, student: Tensor | None = None) -> Tensor:
        """The loss of a case; of other logits of the student, float64, for their gradient."""
        logits = case.student.double() if student is None else student
        teacher, targets = case.teacher.double(), self.targets(case.labels)
        losses = [
            self._token(case, logits[row, place], teacher[row, place], int(targets[row, place]))
            for row, place in self.counted(case.labels).nonzero().tolist()
        ]
        return torch.stack(losses).sum() / len(losses)

    def gradient(self, case: LossCase) -> Tensor:
        """d loss / d student logits [B, S, V], float64."""
        student = case.student.double().clone().requires_grad_()
        backward(self.loss(case, student))
        assert student.grad is not None
        return student.grad

    def _token(self, case: LossCase, student: Tensor, teacher: Tensor, label: int) -> Tensor:
        warm = case.spec.temperature
        q = (student / warm).log_softmax(dim=0)
        p = (teacher / warm).log_softmax(dim=0)
        soft = self._divergence(q, p) * (warm**2 if self.squared else 1)
        hard = -student.log_softmax(dim=0)[label]
        return case.spec.alpha * soft + (1 - case.spec.alpha) * hard

    def _divergence(self, q: Tensor, p: Tensor) -> Tensor:
        """Of log-probabilities [V] of student (q) and teacher (p)."""
        if self.divergence == "cross-entropy":
            return -(p.exp() * q).sum()
        if self.divergence == "forward" or (self.divergence == "jsd" and self.beta == 0):
            return _kl(p, q)
        if self.divergence == "reverse" or self.beta == 1:
            return _kl(q, p)
        mixture = (self.beta * p.exp() + (1 - self.beta) * q.exp()).log()
        return self.beta * _kl(p, mixture) + (1 - self.beta) * _kl(q, mixture)


def following(values: Tensor, last: float) -> Tensor:
    """Each place's next value [B, S]; the last place has none."""
    return torch.cat([values[:, 1:], torch.full_like(values[:, :1], last)], dim=1)


def rounding(case: LossCase, squared: bool) -> float:
    """How far a loss of the case's dtype may be from float64's, and each part of its gradient.

    A log-probability is off by a few eps of the largest number met, a probability relatively by as
    much, and both are multiplied with one another; sums over classes and tokens add an eps a term.
    """
    spec = case.spec
    largest = max(float(logits.abs().max()) for logits in (case.student, case.teacher))
    vocabulary = case.student.shape[-1]
    met = 1 + 2 * largest / min(spec.temperature, 1.0) + math.log(vocabulary)
    terms = vocabulary + case.labels.numel()
    eps = torch.finfo(case.student.dtype).eps
    factor = max(1.0, spec.temperature**2) if squared else 1.0
    return eps * factor * (8 * met**2 + terms * met)


def _kl(first: Tensor, second: Tensor) -> Tensor:
    return (first.exp() * (first - second)).sum()
