"""The temperature sweep: figures against a direct computation, the table and the plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from infopt_reference.distillation import (
    IGNORED,
    DistillationLoss,
    DistillationTrainer,
    LogitStrategy,
    as_markdown,
    as_svg,
    keep_layers,
    pad_rows,
    sweep_temperatures,
)
from tiny_models import make_model
from transformers import TrainingArguments


@pytest.mark.slow
def test_students_of_five_temperatures(tmp_path: Path) -> None:
    teacher = make_model("llama")
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(12):
        ids = torch.randint(1, 128, (8,), generator=generator)
        rows.append({"input_ids": ids, "labels": ids.clone().index_fill(0, torch.tensor(0), -100)})

    def train(temperature: float) -> Any:
        student = keep_layers(teacher, [1])
        settings = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=6,
            learning_rate=1e-3,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            remove_unused_columns=False,
            disable_tqdm=True,
        )
        strategy = LogitStrategy(DistillationLoss(1.0, temperature))
        DistillationTrainer(
            student,
            teacher,
            settings,
            strategy=strategy,
            train_dataset=rows[:8],
            data_collator=pad_rows,
        ).train()
        return student

    untrained = sweep_temperatures(lambda _: keep_layers(teacher, [1]), teacher, rows[8:], [1.0])
    found = sweep_temperatures(train, teacher, rows[8:])
    assert [each.temperature for each in found] == [1, 2, 4, 8, 16]
    assert all(each.kl < untrained[0].kl for each in found)
    table = as_markdown(found)
    assert table.count("\n") == 7
    assert table.count("(best)") == 1
    plot = ElementTree.fromstring(as_svg(found))
    assert len([each for each in plot.iter() if each.tag.endswith("circle")]) == 5


def test_figures_are_means_over_the_tokens_that_count() -> None:
    teacher = make_model("llama")
    student = keep_layers(teacher, [0])
    ids = torch.arange(1, 10)
    labels = ids.clone()
    labels[:4] = IGNORED
    rows = [{"input_ids": ids, "labels": labels}, {"input_ids": ids[:6], "labels": ids[:6]}]
    (found,) = sweep_temperatures(lambda _: student, teacher, rows, [2.0])
    with torch.no_grad():
        said, meant = (
            torch.cat([m(ids[None]).logits[0, 3:-1], m(ids[None, :6]).logits[0, :-1]])
            for m in (student, teacher)
        )
    targets = torch.cat([ids[4:], ids[1:6]])
    hard = torch.nn.functional.cross_entropy(said, targets)
    soft = torch.nn.KLDivLoss(reduction="batchmean")(said.log_softmax(-1), meant.softmax(-1))
    same = (said.argmax(-1) == meant.argmax(-1)).float().mean()
    assert found.cross_entropy == pytest.approx(float(hard), rel=1e-5)
    assert found.kl == pytest.approx(float(soft), rel=1e-5)
    assert found.agreement == pytest.approx(float(same), rel=1e-6)
    assert pad_rows(rows)["attention_mask"].sum(1).tolist() == [9, 6]
