"""Rows of training data: padded to a batch, and with what a teacher once said of them.

Contract. A row is tensors of one length: ``input_ids``, ``labels``, and others beside them. What a
teacher said is stored within the row that it was asked about, so that no shuffling parts the two,
and padding cuts neither. Stored are the teacher's k likeliest tokens, at the loss's temperature.
Leaves out: rows whose text changes from epoch to epoch; the teacher has to be asked anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .labels import IGNORED
from .loss import DistillationLoss
from .top_k import TopKTargets

Row = Mapping[str, Tensor]
_TOKENS, _LOGS = "teacher_tokens", "teacher_log_probabilities"


def pad_rows(rows: Sequence[Row]) -> dict[str, Tensor]:
    """A batch of rows, each tensor [S, …], padded right; its mask is 1 where a row has tokens."""
    batch = {
        name: pad_sequence(
            [torch.as_tensor(row[name]) for row in rows],
            batch_first=True,
            padding_value=IGNORED if name == "labels" else 0,
        )
        for name in rows[0]
    }
    if "attention_mask" not in batch:
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return batch


def store_teacher(
    teacher: Any, rows: Iterable[Row], k: int, temperature: float
) -> list[dict[str, Tensor]]:
    """The rows, each with the teacher's ``k`` likeliest tokens [S, k] of every place."""
    stored = []
    for row in rows:
        teacher.eval()
        with torch.no_grad():
            logits = teacher(input_ids=row["input_ids"][None]).logits
        found = TopKTargets.of_logits(logits, k, temperature)
        stored.append({**row, _TOKENS: found.tokens[0], _LOGS: found.log_probabilities[0]})
    return stored


@dataclass(frozen=True)
class StoredLogitStrategy:
    """The combined loss against what `store_teacher` stored; ``combined`` has its temperature."""

    combined: DistillationLoss = field(default_factory=DistillationLoss)
    needs_teacher: bool = field(default=False, init=False)
    needs_hidden_states: bool = field(default=False, init=False)

    def loss(
        self,
        student: Any,
        teacher: Any,
        batch: Mapping[str, Tensor],
        num_items: Tensor | int | None = None,
    ) -> Tensor:
        targets = TopKTargets(
            batch[_TOKENS],
            batch[_LOGS],
            student.logits.shape[-1],
            self.combined.temperature,
        )
        return self.combined(student.logits, targets, batch["labels"], num_items=num_items)
