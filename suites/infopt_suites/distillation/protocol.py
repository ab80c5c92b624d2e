"""What the distillation suites talk to: minimal protocols that a thin adapter makes a library fit.

Legend: B rows, S tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class LossSpec:
    """α, the share of the soft part, and T; 1 where the capability for another is not claimed."""

    alpha: float = 1.0
    temperature: float = 1.0


class DistillationLoss(Protocol):
    """A loss of logits."""

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """A scalar, of logits [B, S, V] twice, and labels [B, S] with ``ignored`` where no loss is
        wanted. Under "accumulation" it also takes ``num_items``."""


class AccumulatingLoss(DistillationLoss, Protocol):
    """Capability "accumulation"."""

    def __call__(
        self, student: Tensor, teacher: Tensor, labels: Tensor, num_items: int | None = None
    ) -> Tensor:
        """``num_items``: tokens that count in the batch of which this is a part."""


class TopKLoss(DistillationLoss, Protocol):
    """Capability "top-k"."""

    def of_top_k(self, student: Tensor, teacher: Tensor, labels: Tensor, k: int) -> Tensor:
        """The loss where only the teacher's k likeliest tokens are known, at the loss's T."""


class FeatureDistillation(DistillationLoss, Protocol):
    """Capability "features"."""

    def of_features(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of hidden states [B, S, features] twice, of one width."""


class ModelDistillation(DistillationLoss, Protocol):
    """Capability "models"."""

    def of_models(
        self, student: nn.Module, teacher: nn.Module, batch: Mapping[str, Tensor]
    ) -> Tensor:
        """The loss of a batch ``input_ids``, ``attention_mask``, ``labels`` [B, S] of transformers'
        causal models; labels equal the ids or are −100, and are not yet shifted."""


class StoredDistillation(ModelDistillation, Protocol):
    """Capability "stored"."""

    def of_stored(
        self,
        student: nn.Module,
        teacher: nn.Module,
        rows: Sequence[Mapping[str, Tensor]],
        *,
        epochs: int,
        seed: int,
    ) -> Sequence[float]:
        """The loss of each step, untrained, of shuffled epochs over rows, each tensor [S]; what the
        teacher says of a row was stored once, before."""


class OnPolicyDistillation(ModelDistillation, Protocol):
    """Capability "on-policy"."""

    def of_own_text(
        self,
        student: nn.Module,
        teacher: nn.Module,
        prompts: Mapping[str, Tensor],
        *,
        new_tokens: int,
        seed: int,
    ) -> Tensor:
        """The loss on ``new_tokens`` tokens that the student samples after prompts ``input_ids``,
        ``attention_mask`` [B, S] (padded left); no token ends a text early."""


class PairedVocabularies(ModelDistillation, Protocol):
    """Capability "tokenizers"."""

    def check_vocabularies(self, student: Mapping[str, int], teacher: Mapping[str, int]) -> None:
        """Raises where ids of one are not those of the other; both are token → id."""


class MakeDistillationLoss(Protocol):
    """The factory that `DistillationLossSuite` asks for."""

    def __call__(self, spec: LossSpec) -> DistillationLoss:
        """A loss with this α and T."""
