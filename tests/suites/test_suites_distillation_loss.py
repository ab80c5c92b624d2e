"""DistillationLossSuite accepts the reference, and compositions of torch's own losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from infopt_reference.distillation import (
    IGNORED,
    DistillationLoss,
    DistillationTrainer,
    Divergence,
    FeatureLoss,
    JensenShannon,
    LogitStrategy,
    StoredLogitStrategy,
    StudentPrefixes,
    TopKTargets,
    check_vocabularies,
    forward_kl,
    pad_rows,
    reverse_kl,
    store_teacher,
)
from infopt_suites import DistillationLossSuite
from infopt_suites.distillation import LossSpec, MakeDistillationLoss
from infopt_suites.distillation.language_models import VOCABULARY
from torch import Tensor, nn
from torch.nn import functional
from transformers import TrainingArguments


class Reference:
    """The reference's loss, and its other entries."""

    def __init__(self, spec: LossSpec, divergence: Divergence = forward_kl) -> None:
        self.loss = DistillationLoss(spec.alpha, spec.temperature, divergence)

    def __call__(
        self, student: Tensor, teacher: Tensor, labels: Tensor, num_items: int | None = None
    ) -> Tensor:
        return self.loss(student, teacher, labels, num_items=num_items)

    def of_top_k(self, student: Tensor, teacher: Tensor, labels: Tensor, k: int) -> Tensor:
        targets = TopKTargets.of_logits(teacher, k, self.loss.temperature)
        return self.loss(student, targets, labels)

    def of_features(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        width = student.shape[-1]
        loss: Tensor = FeatureLoss({0: 0}, width, width)([student], [teacher], labels)
        return loss


class ReferenceModels(Reference):
    """The trainer's own path; ``directory`` is where it would save."""

    def __init__(self, spec: LossSpec, directory: Path) -> None:
        super().__init__(spec)
        self.directory = directory

    def trainer(self, student: nn.Module, teacher: nn.Module) -> DistillationTrainer:
        settings = TrainingArguments(
            str(self.directory), use_cpu=True, report_to=[], remove_unused_columns=False
        )
        return DistillationTrainer(student, teacher, settings, strategy=LogitStrategy(self.loss))

    def of_models(
        self, student: nn.Module, teacher: nn.Module, batch: Mapping[str, Tensor]
    ) -> Tensor:
        loss = self.trainer(student, teacher).compute_loss(student, batch)
        assert isinstance(loss, Tensor)
        return loss

    def of_own_text(
        self,
        student: nn.Module,
        teacher: nn.Module,
        prompts: Mapping[str, Tensor],
        *,
        new_tokens: int,
        seed: int,
    ) -> Tensor:
        torch.manual_seed(seed)
        labels = torch.full_like(prompts["input_ids"], IGNORED)
        batch = StudentPrefixes(new_tokens).batch(student, {**prompts, "labels": labels})
        return self.of_models(student, teacher, batch)

    def of_stored(
        self,
        student: nn.Module,
        teacher: nn.Module,
        rows: Sequence[Mapping[str, Tensor]],
        *,
        epochs: int,
        seed: int,
    ) -> list[float]:
        stored = store_teacher(teacher, rows, VOCABULARY, self.loss.temperature)
        strategy = StoredLogitStrategy(self.loss)
        generator = torch.Generator().manual_seed(seed)
        losses = []
        for _ in range(epochs):
            shuffled = torch.randperm(len(stored), generator=generator).tolist()
            for numbers in batched(shuffled, 3):
                batch = pad_rows([stored[number] for number in numbers])
                said = student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
                losses.append(float(strategy.loss(said, None, batch).detach()))
        return losses

    def check_vocabularies(self, student: Mapping[str, int], teacher: Mapping[str, int]) -> None:
        check_vocabularies(student, teacher)


def batched(numbers: Sequence[int], size: int) -> list[Sequence[int]]:
    return [numbers[i : i + size] for i in range(0, len(numbers), size)]


OF_LOGITS = frozenset(
    {"hard-labels", "temperature", "accumulation", "ruled-out", "empty", "vocabulary", "top-k"}
)


class TestReference(DistillationLossSuite):
    capabilities = OF_LOGITS | {"features"}

    @pytest.fixture
    def make_distillation_loss(self) -> MakeDistillationLoss:
        return Reference


class TestReferenceTrainer(DistillationLossSuite):
    capabilities = frozenset(
        {"temperature", "models", "stored", "on-policy", "absolute-positions", "tokenizers"}
    )
    examples = 5  # of logits, which TestReference has had

    @pytest.fixture
    def make_distillation_loss(self, tmp_path: Path) -> MakeDistillationLoss:
        return partial(ReferenceModels, directory=tmp_path)


class TestReferenceInFloat64(DistillationLossSuite):
    capabilities = OF_LOGITS
    dtype = torch.float64

    @pytest.fixture
    def make_distillation_loss(self) -> MakeDistillationLoss:
        return Reference


class TestReferenceReverse(DistillationLossSuite):
    capabilities = OF_LOGITS
    divergence = "reverse"

    @pytest.fixture
    def make_distillation_loss(self) -> MakeDistillationLoss:
        return lambda spec: Reference(spec, reverse_kl)


class TestReferenceJensenShannon(DistillationLossSuite):
    capabilities = OF_LOGITS
    divergence = "jsd"
    beta = 0.3

    @pytest.fixture
    def make_distillation_loss(self) -> MakeDistillationLoss:
        return lambda spec: Reference(spec, JensenShannon(0.3))


class TorchModules:
    """nn.KLDivLoss and nn.CrossEntropyLoss, over the places that count."""

    def __init__(self, spec: LossSpec) -> None:
        self.spec = spec

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        counts = labels[:, 1:] != -100
        targets = labels[:, 1:][counts]
        student, teacher = student[:, :-1][counts], teacher[:, :-1][counts]
        warm = self.spec.temperature
        soft = nn.KLDivLoss(reduction="batchmean")(
            (student / warm).log_softmax(-1), (teacher / warm).softmax(-1)
        )
        hard = nn.CrossEntropyLoss()(student, targets)
        return self.spec.alpha * warm**2 * soft + (1 - self.spec.alpha) * hard


class TestTorchModules(DistillationLossSuite):
    capabilities = frozenset({"hard-labels", "temperature"})

    @pytest.fixture
    def make_distillation_loss(self) -> MakeDistillationLoss:
        return TorchModules


class SoftCrossEntropy:
    """torch's cross entropy with probabilities as targets: no KL, and no T², by declaration."""

    def __init__(self, spec: LossSpec) -> None:
        self.spec = spec

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        counts = labels != -100
        warm = self.spec.temperature
        return functional.cross_entropy(
            student[counts] / warm, (teacher[counts] / warm).softmax(-1)
        )


class TestTorchSoftCrossEntropy(DistillationLossSuite):
    capabilities = frozenset({"temperature", "vocabulary"})
    divergence = "cross-entropy"
    temperature_squared = False
    shifted = False

    @pytest.fixture
    def make_distillation_loss(self) -> MakeDistillationLoss:
        return SoftCrossEntropy
