"""One student a temperature: which T is best for a teacher, a student and their data.

Contract. Each student starts from the same weights and sees the same rows in the same order; only T
differs. All are judged at temperature 1, on rows that none was trained on, whatever T they were
trained at. So the figures of all are comparable, which their training losses are not.

Source: Hinton et al. 2015, arXiv:1503.02531, section 3 (2.5 to 4 for small students, 8 and more for
others).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .divergence import forward_kl
from .labels import IGNORED, predicted, predicting
from .loss import cross_entropy_tokens
from .rows import Row, pad_rows

TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 16.0)
_SIZE = (480, 240)  # of the plot, in pixels
_MARGIN = 40


@dataclass(frozen=True)
class SweptStudent:
    """What a student at a temperature came to: means over tokens, at temperature 1."""

    temperature: float
    kl: float
    cross_entropy: float
    agreement: float  # share of tokens whose likeliest is the teacher's


def sweep_temperatures(
    train: Callable[[float], Any],
    teacher: Any,
    rows: Iterable[Row],
    temperatures: Sequence[float] = TEMPERATURES,
) -> list[SweptStudent]:
    """The students that ``train(T)`` gives, each judged on rows."""
    batches = [pad_rows([row]) for row in rows]
    return [judge(train(warm), teacher, batches, warm) for warm in temperatures]


@torch.no_grad()
def judge(student: Any, teacher: Any, batches: Iterable[Row], temperature: float) -> SweptStudent:
    """KL(teacher ‖ student), cross entropy and agreement over the tokens that count."""
    student.eval()
    teacher.eval()
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    for batch in batches:
        seen = {name: batch[name] for name in ("input_ids", "attention_mask")}
        said, meant = student(**seen).logits.float(), teacher(**seen).logits.float()
        counts = predicted(batch["labels"]) != IGNORED
        q, p = (predicting(logits)[counts].log_softmax(-1) for logits in (said, meant))
        values = (
            forward_kl(q, p),
            cross_entropy_tokens(said, batch["labels"])[counts],
            (q.argmax(-1) == p.argmax(-1)).float(),
        )
        sums += torch.stack([value.double().sum() for value in values])
        count += int(counts.sum())
    kl, hard, agreement = (sums / count).tolist()
    return SweptStudent(temperature, kl, hard, agreement)


def best(students: Sequence[SweptStudent]) -> SweptStudent:
    """The one nearest to its teacher."""
    return min(students, key=lambda student: student.kl)


def as_markdown(students: Sequence[SweptStudent]) -> str:
    """A table, a row a temperature; the nearest to the teacher is marked."""
    chosen = best(students)
    lines = ["| T | KL to the teacher | cross entropy | same first token |", "|---|---|---|---|"]
    for each in students:
        mark = " (best)" if each is chosen else ""
        lines.append(
            f"| {each.temperature:g}{mark} | {each.kl:.4f} | {each.cross_entropy:.4f} | "
            f"{each.agreement:.1%} |"
        )
    return "\n".join(lines) + "\n"


def as_svg(students: Sequence[SweptStudent]) -> str:
    """A plot of KL against T, evenly spaced: a picture that needs no library."""
    width, height = _SIZE
    most = max(each.kl for each in students) or 1.0
    step = (width - 2 * _MARGIN) / max(len(students) - 1, 1)
    marks, labels = [], []
    for number, each in enumerate(students):
        x = _MARGIN + number * step
        y = height - _MARGIN - each.kl / most * (height - 2 * _MARGIN)
        marks.append(f"{x:.1f},{y:.1f}")
        labels.append(
            f'<text x="{x:.1f}" y="{height - _MARGIN / 2:.1f}">T = {each.temperature:g}</text>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
            f'<text x="{x:.1f}" y="{y - 8:.1f}">{each.kl:.3g}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'style="background: white" font-family="sans-serif" font-size="11" text-anchor="middle">'
        "<title>KL to the teacher by temperature</title>"
        f'<polyline points="{" ".join(marks)}" fill="none" stroke="currentColor"/>'
        f"{''.join(labels)}</svg>\n"
    )
