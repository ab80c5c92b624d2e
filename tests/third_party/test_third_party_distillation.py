"""DistillationLossSuite on TRL's, Liger's and torchtune's losses, of the extra distillation-peers.

None multiplies by T², which each says: their temperature is a part of the divergence.
"""

from __future__ import annotations

import pytest
import torch
from distillation_libraries import Gkd, torchtune
from infopt_suites import DistillationLossSuite
from infopt_suites.distillation import LossSpec, MakeDistillationLoss
from torch import Tensor


class TestTrlForward(DistillationLossSuite):
    capabilities = frozenset({"temperature", "accumulation", "empty"})
    temperature_squared = False
    shifted = False

    @pytest.fixture
    def make_distillation_loss(self) -> MakeDistillationLoss:
        return Gkd


class TestTrlReverse(TestTrlForward):
    divergence = "reverse"

    @pytest.fixture
    def make_distillation_loss(self) -> MakeDistillationLoss:
        return lambda spec: Gkd(spec, beta=1.0)


class TestTrlJensenShannon(TestTrlForward):
    divergence = "jsd"
    beta = 0.3

    @pytest.fixture
    def make_distillation_loss(self) -> MakeDistillationLoss:
        return lambda spec: Gkd(spec, beta=0.3)


class TestTrlModels(TestTrlForward):
    capabilities = frozenset({"models", "on-policy", "absolute-positions"})
    examples = 5
    # tests/findings/test_findings_trl_gkd.py
    expected_failures = {  # noqa: RUF012
        "test_gradients_flow_through_the_log_probabilities_of_that_text_alone": "trl 1.16.0 gives "
        "no position ids, so that absolute positions begin at the padding of prompts"
    }

    @pytest.fixture
    def make_distillation_loss(self) -> MakeDistillationLoss:
        return Gkd


class Liger:
    """Liger's fused loss, on hidden states that are logits: both heads are the identity."""

    def __init__(self, spec: LossSpec, beta: float = 0.0) -> None:
        chunked = pytest.importorskip(
            "liger_kernel.chunked_loss", reason="install the extra distillation-peers"
        )
        self.loss = chunked.LigerFusedLinearJSDLoss(
            weight_hard_loss=1 - spec.alpha,
            weight_soft_loss=spec.alpha,
            beta=beta,
            temperature=spec.temperature,
            compiled=False,
            chunk_size=3,
        )

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        heads = (torch.eye(x.shape[-1], dtype=x.dtype) for x in (student, teacher))
        of_student, of_teacher = heads
        loss: Tensor = self.loss(
            student.flatten(0, 1), of_student, teacher.flatten(0, 1), of_teacher, labels.flatten()
        )
        return loss


class TestLigerForward(DistillationLossSuite):
    capabilities = frozenset({"hard-labels", "temperature", "empty"})
    temperature_squared = False
    shifted = False

    @pytest.fixture
    def make_distillation_loss(self) -> MakeDistillationLoss:
        return Liger


class TestLigerJensenShannon(TestLigerForward):
    divergence = "jsd"
    beta = 0.3

    @pytest.fixture
    def make_distillation_loss(self) -> MakeDistillationLoss:
        return lambda spec: Liger(spec, beta=0.3)


class Torchtune:
    def __init__(self, spec: LossSpec, name: str) -> None:
        self.loss = getattr(torchtune(), name)()

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.loss(student.flatten(0, 1), teacher.flatten(0, 1), labels.flatten())
        return loss


class TestTorchtuneForward(DistillationLossSuite):
    """Its ForwardKLLoss is cross entropy: see tests/findings/test_findings_torchtune_kl.py."""

    capabilities = frozenset({"ruled-out", "empty"})
    divergence = "cross-entropy"
    shifted = False

    @pytest.fixture
    def make_distillation_loss(self) -> MakeDistillationLoss:
        return lambda spec: Torchtune(spec, "ForwardKLLoss")


class TestTorchtuneReverse(DistillationLossSuite):
    capabilities = frozenset({"ruled-out", "empty"})
    divergence = "reverse"
    shifted = False
    expected_failures = {  # noqa: RUF012
        "test_tokens_that_both_rule_out_change_nothing": "torchtune 0.6.1: the gradient is NaN"
    }

    @pytest.fixture
    def make_distillation_loss(self) -> MakeDistillationLoss:
        return lambda spec: Torchtune(spec, "ReverseKLLoss")
