"""TRL's and torchtune's losses for distillation, of the extra distillation-peers."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from infopt_suites.distillation import LossSpec
from torch import Tensor, nn
from transformers import GenerationConfig


@cache
def gkd() -> Any:
    """TRL's GKDTrainer, which takes seconds to import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("trl", reason="install the extra distillation-peers")
        from trl.experimental.gkd.gkd_trainer import GKDTrainer

    return GKDTrainer


class Gkd:
    """TRL's GKDTrainer: its loss of logits, of models, and of the student's own text."""

    def __init__(self, spec: LossSpec, beta: float = 0.0) -> None:
        self.spec, self.beta, self.trainer = spec, beta, gkd()

    def __call__(
        self, student: Tensor, teacher: Tensor, labels: Tensor, num_items: int | None = None
    ) -> Tensor:
        loss: Tensor = self.trainer.generalized_jsd_loss(
            student,
            teacher,
            labels,
            beta=self.beta,
            temperature=self.spec.temperature,
            num_items_in_batch=num_items,
        )
        return loss

    def of_models(
        self, student: nn.Module, teacher: nn.Module, batch: Mapping[str, Tensor]
    ) -> Tensor:
        of_loss = self.trainer.generalized_jsd_loss
        trainer = SimpleNamespace(
            teacher_model=teacher, beta=self.beta, generalized_jsd_loss=of_loss
        )
        loss: Tensor = self.trainer.compute_loss(trainer, student, batch)
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
        settings = GenerationConfig(
            max_new_tokens=new_tokens, do_sample=True, top_k=0, top_p=1.0, pad_token_id=0
        )
        given = {
            "prompts": prompts["input_ids"],
            "prompt_attention_mask": prompts["attention_mask"],
        }
        ids, mask, labels = self.trainer.generate_on_policy_outputs(student, given, settings)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return self.of_models(student, teacher, batch)


@cache
def torchtune() -> ModuleType:
    """torchtune's losses alone: the package needs an older torchao, this file of it does not."""
    spec = importlib.util.find_spec("torchtune")
    if spec is None or spec.origin is None:
        pytest.skip("install the extra distillation-peers")
    path = Path(spec.origin).parent / "modules" / "loss" / "kd_losses.py"
    found = importlib.util.spec_from_file_location("torchtune_kd_losses", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
