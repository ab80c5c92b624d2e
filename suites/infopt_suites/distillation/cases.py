"""Logits and labels to distil with: what Hypothesis draws, and traps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from .protocol import LossSpec, MakeDistillationLoss

TEMPERATURES = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class LossCase:
    """Logits of both models, labels, α and T."""

    student: Tensor
    teacher: Tensor
    labels: Tensor
    spec: LossSpec

    def __repr__(self) -> str:
        return (
            f"{self.spec}: student {self.student.tolist()}, teacher {self.teacher.tolist()}, "
            f"labels {self.labels.tolist()}"
        )


@dataclass(frozen=True)
class Trial:
    """A case, and how losses are made."""

    make: MakeDistillationLoss
    case: LossCase

    def loss(self, **changes: Any) -> Tensor:
        """The loss of the case with these changes, by a loss that is made for it."""
        case = replace(self.case, **changes)
        return self.make(case.spec)(case.student, case.teacher, case.labels)

    def gradient(self, **changes: Any) -> Tensor:
        """d loss / d student logits [B, S, V]; zeros where there is none."""
        student = changes.pop("student", self.case.student).clone().requires_grad_()
        loss = self.loss(student=student, **changes)
        backward(loss)
        return torch.zeros_like(student) if student.grad is None else student.grad


@dataclass(frozen=True)
class Accepted:
    """What a loss takes."""

    alphas: Sequence[float]
    temperatures: Sequence[float]
    dtype: torch.dtype
    ignored: int


def loss_cases(accepted: Accepted) -> SearchStrategy[LossCase]:
    """Few rows, tokens and classes; labels of which some are ignored, and at least one counts."""

    @st.composite
    def draw_case(draw: st.DrawFn) -> LossCase:
        rows, tokens = draw(st.integers(1, 3)), draw(st.integers(2, 5))
        spec = LossSpec(
            draw(st.sampled_from(accepted.alphas)), draw(st.sampled_from(accepted.temperatures))
        )
        ignoring = draw(st.sampled_from([0.0, 0.3, 0.7]))
        seed = draw(st.integers(0, 999))
        return make_case(accepted, (rows, tokens, draw(st.integers(2, 6))), spec, ignoring, seed)

    return draw_case()


def loss_traps(accepted: Accepted) -> Iterator[tuple[str, LossCase]]:
    """Named inputs on which losses have gone wrong."""
    spec = LossSpec(accepted.alphas[-1], accepted.temperatures[-1])
    plain = make_case(accepted, (2, 6, 5), spec, ignoring=0.0, seed=1)
    prompt = plain.labels.clone()
    prompt[:, :4] = accepted.ignored
    yield "a prompt that is ignored", replace(plain, labels=prompt)
    ragged = plain.labels.clone()
    ragged[0, 2:] = accepted.ignored
    yield "rows of different lengths", replace(plain, labels=ragged)
    yield (
        "sharp distributions, far apart",
        replace(plain, student=plain.student * 8, teacher=plain.teacher.flip(-1) * 8),
    )
    yield (
        "logits far from 0",
        replace(plain, student=plain.student + 64, teacher=plain.teacher - 64),
    )
    for alpha in accepted.alphas:
        yield f"a share of {alpha}", replace(plain, spec=replace(spec, alpha=alpha))


def make_case(
    accepted: Accepted, shape: tuple[int, int, int], spec: LossSpec, ignoring: float, seed: int
) -> LossCase:
    """Logits that are multiples of 1/4 between −4 and 4, of shape [B, S, V]."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        (torch.randint(-16, 17, shape, generator=generator) / 4).to(accepted.dtype) for _ in "st"
    )
    labels = torch.randint(shape[-1], shape[:2], generator=generator)
    kept = labels[0, 1].item()
    labels[torch.rand(shape[:2], generator=generator) < ignoring] = accepted.ignored
    labels[0, 1] = kept  # counts, shifted or not
    return LossCase(student, teacher, labels, spec)


def number(loss: Tensor) -> float:
    """A loss as a float; torch warns of a scalar that still has a gradient."""
    return float(loss.detach())


def backward(loss: Tensor) -> None:
    """Its gradients, into whatever it was made of."""
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
