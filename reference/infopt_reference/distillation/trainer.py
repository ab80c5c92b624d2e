"""Training a student, on transformers' Trainer.

    trainer = DistillationTrainer(student, teacher, args, train_dataset=rows, eval_dataset=others)
    trainer.train(resume_from_checkpoint=True)

Contract. What Trainer promises holds: logs, checkpoints, resuming to the same weights, evaluation,
callbacks (``EarlyStoppingCallback`` among them). Beyond it: the teacher is in eval mode whenever it
is asked, gets no gradient and no step. Both models get the same ids and mask. A step over several
batches is the step over one batch of all their rows, with the student's own text too. Teacher and
student have one vocabulary, which is checked word for word where both tokenizers are given.
Leaves out: projections of features in a resumed run; more than one process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from .labels import count_items
from .prefixes import DataPrefixes, PrefixSource
from .strategies import FeatureStrategy, LogitStrategy, Strategy

_SEEN = ("input_ids", "attention_mask", "position_ids")


class DistillationTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """A Trainer whose loss is a strategy's.

    Args:
        model: the student, of transformers' causal models.
        teacher: another, of the same vocabulary; None for a strategy that asks none.
        args: transformers' own, with ``remove_unused_columns=False``: a strategy may read them.
        strategy: `LogitStrategy` unless another is given.
        prefixes: the data's own unless others are given.
        processing_class, teacher_processing_class: the tokenizers, compared where both are given.
        given: whatever else Trainer takes.

    Raises:
        ValueError: the strategy needs a teacher and there is none; the vocabularies differ; there
            are several processes.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module | None,
        args: TrainingArguments,
        *,
        strategy: Strategy | None = None,
        prefixes: PrefixSource | None = None,
        processing_class: Any = None,
        teacher_processing_class: Any = None,
        **given: Any,
    ) -> None:
        self.strategy: Strategy = strategy if strategy is not None else LogitStrategy()
        self.prefixes: PrefixSource = prefixes if prefixes is not None else DataPrefixes()
        if self.strategy.needs_teacher and teacher is None:
            raise ValueError(f"{type(self.strategy).__name__} needs a teacher")
        if processing_class is not None and teacher_processing_class is not None:
            check_vocabularies(processing_class.get_vocab(), teacher_processing_class.get_vocab())
        super().__init__(model=model, args=args, processing_class=processing_class, **given)
        if self.accelerator.num_processes > 1:
            raise ValueError("DistillationTrainer runs in one process")
        self.teacher = None if teacher is None else teacher.to(self.args.device)
        self.loss_is_scaled_for_ga = True  # num_items are those of all batches of a step

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor | None]:
        """The batches of a step on the text of `prefixes`, and how many of their tokens count."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [
            self.prefixes.batch(self.model, self._prepare_inputs(batch)) for batch in batches
        ]
        items = sum((count_items(batch["labels"]) for batch in batches), torch.tensor(0))
        return batches, items.to(device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The strategy's loss of a batch, and the student's outputs where they are wanted."""
        seen = {name: inputs[name] for name in _SEEN if name in inputs}
        if self.strategy.needs_hidden_states:
            seen["output_hidden_states"] = True  # type: ignore[assignment]
        outputs = model(**seen)
        loss = self.strategy.loss(outputs, self._asked(seen), inputs, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, *arguments: Any, **given: Any) -> torch.optim.Optimizer:
        """Trainer's own, of the student and of projections that a feature loss may have."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(*arguments, **given)
        projections = self._projections()
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if projections and id(projections[0]) not in known:
            optimizer.add_param_group({"params": projections, "weight_decay": 0.0})
        return optimizer

    def train(self, resume_from_checkpoint: str | bool | None = None, **given: Any) -> Any:
        """Trainer's own.

        Raises:
            ValueError: a run with projections of features is resumed; they were not saved.
        """
        if resume_from_checkpoint and self._projections():
            raise ValueError("a run with projections of features cannot be resumed; begin anew")
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **given)

    def _asked(self, seen: dict[str, Any]) -> Any:
        if self.teacher is None or not self.strategy.needs_teacher:
            return None
        self.teacher.eval()
        with torch.no_grad():
            return self.teacher(**seen)

    def _projections(self) -> list[nn.Parameter]:
        if not isinstance(self.strategy, FeatureStrategy):
            return []
        return list(self.strategy.features.to(self.args.device).parameters())


def check_vocabularies(student: Mapping[str, int], teacher: Mapping[str, int]) -> None:
    """Raises ValueError where a token has not the same id on both sides; both are token → id."""
    for token in sorted(student.keys() | teacher.keys()):
        ids = student.get(token), teacher.get(token)
        if ids[0] != ids[1]:
            raise ValueError(
                f"token {token!r} is {ids[0]} to the student and {ids[1]} to the teacher; logits "
                "can only be compared between models of one tokenizer"
            )
