"""The combined loss: what the teacher thinks of every token, and what the text says.

    loss = α · T² · D(teacher_T, student_T) + (1 − α) · CE(student, labels)

    D        a divergence, forward KL unless another is given
    T        temperature of both softmaxes in D; CE is at temperature 1
    T²       the gradient of D shrinks with 1/T² as T grows; so its size stays

Contract. Both parts are means over the tokens that count (labels.py), each token weighing the same
in whatever batch it comes: with ``num_items``, the tokens of the whole, the losses of the parts of
a batch sum up to that of the batch. Student and teacher speak of one vocabulary. The teacher gets
no gradient. Logits of 16 bit are computed in float32. No token that counts: the loss is 0.
Leaves out: vocabularies that differ, which need an alignment of tokens.

Source: Hinton et al. 2015, arXiv:1503.02531, section 2 and 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .divergence import Divergence, computed, forward_kl
from .labels import IGNORED, mean_over_tokens, predicted, predicting
from .top_k import TopKTargets

Teacher = Tensor | TopKTargets


@dataclass(frozen=True)
class LossParts:
    """Both parts, each a mean over tokens: T² · D, and CE; and their weighted sum."""

    soft: Tensor
    hard: Tensor
    total: Tensor


@dataclass(frozen=True)
class DistillationLoss:
    """α · T² · D + (1 − α) · CE.

    Raises:
        ValueError: α is not within [0, 1], or T is not above 0.
    """

    alpha: float = 0.5
    temperature: float = 2.0
    divergence: Divergence = forward_kl

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}; it has to be within [0, 1]")
        if not self.temperature > 0:
            raise ValueError(f"the temperature is {self.temperature}; it has to be above 0")

    def __call__(
        self,
        student: Tensor,
        teacher: Teacher,
        labels: Tensor,
        *,
        weights: Tensor | None = None,
        num_items: Tensor | int | None = None,
    ) -> Tensor:
        """The loss, a scalar; arguments as in `parts`."""
        return self.parts(student, teacher, labels, weights=weights, num_items=num_items).total

    def parts(
        self,
        student: Tensor,
        teacher: Teacher,
        labels: Tensor,
        *,
        weights: Tensor | None = None,
        num_items: Tensor | int | None = None,
    ) -> LossParts:
        """The loss and its parts.

        Args:
            student: logits [B, S, V].
            teacher: logits [B, S, V], or what is known of them.
            labels: [B, S], the input's ids, or IGNORED; shifted here.
            weights: [B, S], of the label at that place.
            num_items: the tokens that count in the whole of which this batch is a part.

        Raises:
            ValueError: the vocabularies or the shapes differ, or a top-k teacher was recorded at
                another temperature.
        """
        self._check(student, teacher, labels)
        hard = mean_over_tokens(cross_entropy_tokens(student, labels), labels, weights, num_items)
        soft = mean_over_tokens(self.soft_tokens(student, teacher), labels, weights, num_items)
        # Not 0 · x where a part has no share: x may be infinite.
        shares = [(self.alpha, soft), (1 - self.alpha, hard)]
        total = torch.stack([share * part for share, part in shares if share]).sum()
        return LossParts(soft, hard, total)

    def soft_tokens(self, student: Tensor, teacher: Teacher) -> Tensor:
        """T² · D [B, S − 1] of each predicted token."""
        of_student = (computed(predicting(student)) / self.temperature).log_softmax(dim=-1)
        if isinstance(teacher, TopKTargets):
            known = TopKTargets(
                predicting(teacher.tokens),
                computed(predicting(teacher.log_probabilities)).detach(),
                teacher.vocabulary,
            )
            of_student = known.outcomes_of(of_student)
            of_teacher = known.log_probabilities_with_tail
        else:
            logits = computed(predicting(teacher)).detach()
            of_teacher = (logits / self.temperature).log_softmax(dim=-1)
        return self.temperature**2 * self.divergence(of_student, of_teacher)

    def _check(self, student: Tensor, teacher: Teacher, labels: Tensor) -> None:
        tokens, size = _extent(teacher)
        if size != student.shape[-1]:
            raise ValueError(
                f"the student has {student.shape[-1]} tokens, the teacher {size}; distil between "
                "models of one tokenizer, and cut padding off their logits"
            )
        if not student.shape[:-1] == tokens == labels.shape:
            raise ValueError(
                f"student, teacher and labels speak of {tuple(student.shape[:-1])}, "
                f"{tuple(tokens)} and {tuple(labels.shape)} tokens; all are [B, S]"
            )
        if isinstance(teacher, TopKTargets) and teacher.temperature != self.temperature:
            raise ValueError(
                f"the teacher was recorded at temperature {teacher.temperature}, the loss has "
                f"{self.temperature}; record it at the temperature of the loss"
            )


def _extent(teacher: Teacher) -> tuple[torch.Size, int]:
    """[B, S] and V of what a teacher says."""
    if isinstance(teacher, TopKTargets):
        return teacher.tokens.shape[:-1], teacher.vocabulary
    return teacher.shape[:-1], teacher.shape[-1]


def cross_entropy_tokens(student: Tensor, labels: Tensor) -> Tensor:
    """−log p [B, S − 1] of each predicted token, of logits [B, S, V]; 0 where it is ignored."""
    logits = computed(predicting(student)).transpose(1, 2)
    return torch.nn.functional.cross_entropy(
        logits, predicted(labels), ignore_index=IGNORED, reduction="none"
    )
