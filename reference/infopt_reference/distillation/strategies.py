"""What a student learns of its teacher: text, probabilities, hidden states, reasons.

    response           the teacher's text, as hard labels: any teacher, even one behind an API
    logit              α T² D + (1 − α) CE, of all tokens or of the teacher's k likeliest
    feature            the same, and hidden states drawn to the teacher's
    chain of thought   response, with its own weight for the tokens of the reasoning
    selective          another strategy's loss, on tokens that a rule chooses

Contract. A strategy gives the loss of a batch of input ids, labels and whatever else it names, from
what both models said. All are means over the tokens that count, by whose number a batch of parts is
divided; a token that is not selected costs 0 and still counts. So the parts of a batch sum up.

Source: Kim & Rush 2016, arXiv:1606.07947 (sequence-level); Hsieh et al. 2023, arXiv:2305.02301
(distilling step by step); Wang et al. 2021, arXiv:2106.05691 (selective).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from .features import FeatureLoss
from .labels import mean_over_tokens
from .loss import DistillationLoss, Teacher, cross_entropy_tokens
from .top_k import TopKTargets

Batch = Mapping[str, Tensor]
Select = Callable[[Tensor, Tensor], Tensor]  # logits [B, S, V] of student and teacher → bool [B, S]


class Strategy(Protocol):
    """The loss of a batch, and what it asks of the models."""

    @property
    def needs_teacher(self) -> bool: ...
    @property
    def needs_hidden_states(self) -> bool: ...

    def loss(
        self, student: Any, teacher: Any, batch: Batch, num_items: Tensor | int | None = None
    ) -> Tensor:
        """A scalar, of the outputs of transformers' models, or None for a teacher not asked."""


@dataclass(frozen=True)
class ResponseStrategy:
    """Cross entropy of labels; with what a teacher wrote as labels, sequence-level distillation."""

    needs_teacher: bool = field(default=False, init=False)
    needs_hidden_states: bool = field(default=False, init=False)

    def loss(
        self, student: Any, teacher: Any, batch: Batch, num_items: Tensor | int | None = None
    ) -> Tensor:
        return _response(student, batch, None, num_items)


@dataclass(frozen=True)
class LogitStrategy:
    """The combined loss, of all tokens or, with ``top_k``, of as many of the teacher's."""

    combined: DistillationLoss = field(default_factory=DistillationLoss)
    top_k: int | None = None
    needs_teacher: bool = field(default=True, init=False)
    needs_hidden_states: bool = field(default=False, init=False)

    def loss(
        self, student: Any, teacher: Any, batch: Batch, num_items: Tensor | int | None = None
    ) -> Tensor:
        return self.weighted(student, teacher, batch, None, num_items)

    def weighted(
        self,
        student: Any,
        teacher: Any,
        batch: Batch,
        weights: Tensor | None,
        num_items: Tensor | int | None,
    ) -> Tensor:
        """The loss with weights [B, S] of labels."""
        said: Teacher = teacher.logits
        if self.top_k is not None:
            said = TopKTargets.of_logits(teacher.logits, self.top_k, self.combined.temperature)
        return self.combined(
            student.logits, said, batch["labels"], weights=weights, num_items=num_items
        )


@dataclass(frozen=True)
class FeatureStrategy:
    """The loss of logits, and ``weight`` times that of hidden states."""

    features: FeatureLoss
    logits: LogitStrategy = field(default_factory=LogitStrategy)
    weight: float = 1.0
    needs_teacher: bool = field(default=True, init=False)
    needs_hidden_states: bool = field(default=True, init=False)

    def loss(
        self, student: Any, teacher: Any, batch: Batch, num_items: Tensor | int | None = None
    ) -> Tensor:
        states: Tensor = self.features(
            student.hidden_states, teacher.hidden_states, batch["labels"], num_items
        )
        return self.logits.loss(student, teacher, batch, num_items) + self.weight * states


@dataclass(frozen=True)
class ChainOfThoughtStrategy:
    """Cross entropy of the teacher's reasoning and answer; ``batch["reasoning"]`` [B, S] is true
    where a label belongs to the reasoning, whose tokens weigh ``reasoning_weight``."""

    reasoning_weight: float = 0.5
    needs_teacher: bool = field(default=False, init=False)
    needs_hidden_states: bool = field(default=False, init=False)

    def loss(
        self, student: Any, teacher: Any, batch: Batch, num_items: Tensor | int | None = None
    ) -> Tensor:
        weights = torch.where(batch["reasoning"].bool(), self.reasoning_weight, 1.0)
        return _response(student, batch, weights, num_items)


@dataclass(frozen=True)
class SelectiveStrategy:
    """The combined loss, at the tokens that ``select`` chooses from both models' logits."""

    select: Select
    logits: LogitStrategy = field(default_factory=LogitStrategy)
    needs_teacher: bool = field(default=True, init=False)
    needs_hidden_states: bool = field(default=False, init=False)

    def loss(
        self, student: Any, teacher: Any, batch: Batch, num_items: Tensor | int | None = None
    ) -> Tensor:
        chosen = self.select(student.logits.detach(), teacher.logits)
        # What a place says is about the next label.
        weights = torch.cat([torch.zeros_like(chosen[:, :1]), chosen[:, :-1]], dim=1).float()
        return self.logits.weighted(student, teacher, batch, weights, num_items)


@dataclass(frozen=True)
class TeacherIsSure:
    """Selects the tokens whose likeliest has ``probability`` or more, as the teacher sees it."""

    probability: float = 0.5

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        return teacher.float().softmax(dim=-1).amax(dim=-1) >= self.probability


@dataclass(frozen=True)
class StudentStrays:
    """Selects the tokens at which the student's likeliest is none of the teacher's ``k``."""

    k: int = 1

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        best = student.argmax(dim=-1, keepdim=True)
        return (teacher.topk(self.k, dim=-1).indices != best).all(dim=-1)


def _response(
    student: Any, batch: Batch, weights: Tensor | None, num_items: Tensor | int | None
) -> Tensor:
    tokens = cross_entropy_tokens(student.logits, batch["labels"])
    return mean_over_tokens(tokens, batch["labels"], weights, num_items)
