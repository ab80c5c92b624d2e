"""Feature distillation: hidden states of chosen layers are drawn to those of the teacher.

    loss = mean over layers and tokens of the mean square of P(student) − teacher, both normalised

P is a linear map where the widths differ, trained with the student and thrown away with it. States
are brought to mean 0 and variance 1 over the features of a token, so that layers of any size weigh
alike, and the few features of huge size that transformers have do not decide alone.

Contract. Positions that no label marks count in nothing. The teacher gets no gradient. Layers are
numbered as transformers numbers ``hidden_states``: 0 is the embedding, −1 the last.

Source: Romero et al. 2015, arXiv:1412.6550 (FitNets); Jiao et al. 2020, arXiv:1909.10351
(TinyBERT).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from .labels import mean_over_tokens, predicting


class FeatureLoss(nn.Module):
    """Hidden states of student and teacher, layer against layer.

    Args:
        layers: teacher layer by student layer.
        student_width, teacher_width: features of a token.

    Raises:
        ValueError: there is no layer.
    """

    def __init__(self, layers: Mapping[int, int], student_width: int, teacher_width: int) -> None:
        super().__init__()
        if not layers:
            raise ValueError("feature distillation needs a layer; give {student: teacher}")
        self.layers = dict(layers)
        equal = student_width == teacher_width
        self.projections = nn.ModuleList(
            nn.Identity() if equal else nn.Linear(student_width, teacher_width, bias=False)
            for _ in layers
        )

    def forward(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        labels: Tensor,
        num_items: Tensor | int | None = None,
    ) -> Tensor:
        """The loss, a scalar, of hidden states [B, S, features] by layer, and labels [B, S].

        Raises:
            ValueError: a model has no such layer.
        """
        losses = []
        for (of_student, of_teacher), project in zip(
            self.layers.items(), self.projections, strict=True
        ):
            projected = project(_layer(student, of_student, "student"))
            wanted = _layer(teacher, of_teacher, "teacher").detach()
            away = (_normalised(projected) - _normalised(wanted)).square().mean(dim=-1)
            losses.append(mean_over_tokens(predicting(away), labels, None, num_items))
        return torch.stack(losses).mean()


def spread_layers(student: int, teacher: int) -> dict[int, int]:
    """Each of a student's layers 1…n against one of the teacher's, evenly, the last with the last.

    Raises:
        ValueError: a model has no layers.
    """
    if min(student, teacher) < 1:
        raise ValueError(f"{student} and {teacher} layers; both have to be 1 or more")
    return {layer: round(layer * teacher / student) for layer in range(1, student + 1)}


def _normalised(states: Tensor) -> Tensor:
    return layer_norm(states.float(), states.shape[-1:])


def _layer(states: Sequence[Tensor], layer: int, whose: str) -> Tensor:
    if not -len(states) <= layer < len(states):
        raise ValueError(f"the {whose} has hidden states 0…{len(states) - 1}, not {layer}")
    return states[layer]
