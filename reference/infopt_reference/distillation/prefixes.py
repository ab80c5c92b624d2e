"""On which text student and teacher are compared: that of the data, or the student's own.

    off-policy    the batch as it is
    on-policy     its prompts, and what the student writes after them now
    mixed         either, at random, batch by batch (λ of GKD is the share of the student's own)

This is one axis; the direction of the divergence is another, and any two of them go together.

Contract. The text is sampled in eval mode and without gradient, from the student's distribution at
a temperature of its own, which the loss does not see. What was sampled, up to and with the token
that ends a text, counts; prompts and what comes after the end do not.
Leaves out: the gradient of the sampling itself (policy gradient, as in MiniLLM).

Source: Agarwal et al. 2024, arXiv:2306.13649 (GKD), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from .labels import IGNORED


class PrefixSource(Protocol):
    """Makes the batch that both models are compared on."""

    def batch(self, student: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask``, ``labels`` [B, S], from a batch of the data."""


@dataclass(frozen=True)
class DataPrefixes:
    """Off-policy."""

    def batch(self, student: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return batch


@dataclass(frozen=True)
class StudentPrefixes:
    """On-policy: the labels of a batch only say where its prompts end."""

    new_tokens: int
    temperature: float = 1.0

    def batch(self, student: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        ids, mask = prompts_of(batch)
        return write(student, ids, mask, self.new_tokens, self.temperature)


@dataclass(frozen=True)
class MixedPrefixes:
    """On-policy with probability ``share``, drawn from a generator of its own.

    Raises:
        ValueError: the share is not within [0, 1].
    """

    own: StudentPrefixes
    share: float = 0.5
    seed: int = 0
    _generator: torch.Generator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"the share is {self.share}; it has to be within [0, 1]")
        object.__setattr__(self, "_generator", torch.Generator().manual_seed(self.seed))

    def batch(self, student: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        drawn = float(torch.rand((), generator=self._generator))
        return self.own.batch(student, batch) if drawn < self.share else batch


def prompts_of(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, P] of what stands before the first label of each row, padded left.

    Raises:
        ValueError: a row begins with a label, so that it has no prompt.
    """
    mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
    before = (batch["labels"] != IGNORED).cumsum(dim=1) == 0
    prompts = mask & before
    if not prompts.any(dim=1).all():
        raise ValueError("a row has no prompt: its first token is a label")
    order = prompts.long().argsort(dim=1, stable=True)  # what belongs to a prompt comes last
    longest = int(prompts.sum(dim=1).max())
    ids = batch["input_ids"].gather(1, order)[:, -longest:]
    kept = prompts.gather(1, order)[:, -longest:]
    return ids * kept, kept.long()


def write(
    student: nn.Module, ids: Tensor, mask: Tensor, new_tokens: int, temperature: float = 1.0
) -> dict[str, Tensor]:
    """A batch of prompts [B, P], padded left, and what the student samples after them."""
    model: Any = student
    ends = _ends_of(model)
    settings = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        max_new_tokens=new_tokens,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    )
    with _evaluating(student), torch.no_grad():
        text = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
    sampled = text[:, ids.shape[1] :]
    ended = torch.isin(sampled, torch.tensor(ends, device=sampled.device, dtype=sampled.dtype))
    written = ended.cumsum(dim=1) - ended.long() == 0  # up to the first end, and with it
    seen = torch.cat([mask, written.long()], dim=1)
    return {
        "input_ids": text,
        "attention_mask": seen,
        # Padded left, a row does not begin at position 0 by itself.
        "position_ids": (seen.cumsum(dim=1) - 1).clamp(min=0),
        "labels": torch.cat(
            [torch.full_like(ids, IGNORED), sampled.masked_fill(~written, IGNORED)], dim=1
        ),
    }


def _ends_of(model: Any) -> list[int]:
    """The tokens that end a text, as the model's own settings say."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Within: eval mode. Afterwards each module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
