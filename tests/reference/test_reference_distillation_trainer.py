"""The trainer: accumulation, resuming, early stops, strategies and prefixes, on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from infopt_reference.distillation import (
    IGNORED,
    ChainOfThoughtStrategy,
    DistillationLoss,
    DistillationTrainer,
    FeatureLoss,
    FeatureStrategy,
    LogitStrategy,
    MixedPrefixes,
    ResponseStrategy,
    SelectiveStrategy,
    StoredLogitStrategy,
    StudentPrefixes,
    StudentStrays,
    TeacherIsSure,
    keep_layers,
    pad_rows,
    spread,
    store_teacher,
)
from tiny_models import make_model, make_tokenizer
from torch import Tensor
from transformers import EarlyStoppingCallback, TrainingArguments


@pytest.fixture(scope="module")
def teacher() -> Any:
    return make_model("llama")


@pytest.fixture
def student(teacher: Any) -> Any:
    return keep_layers(teacher, [1])


def rows(count: int = 8, seed: int = 0) -> list[dict[str, Tensor]]:
    """Rows of 6 to 9 tokens; labels begin after two."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        ids = torch.randint(1, 128, (6 + number % 4,), generator=generator)
        labels = ids.clone()
        labels[:2] = IGNORED
        found.append({"input_ids": ids, "labels": labels})
    return found


def settings(directory: Path, **given: Any) -> TrainingArguments:
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "seed": 0,
    }
    return TrainingArguments(output_dir=str(directory), **(defaults | given))


def made(directory: Path, student: Any, teacher: Any, **given: Any) -> DistillationTrainer:
    arguments = settings(directory, **given.pop("settings", {}))
    given.setdefault("train_dataset", rows())
    return DistillationTrainer(student, teacher, arguments, data_collator=pad_rows, **given)


def weights(model: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_a_student_comes_nearer_to_its_teacher(tmp_path: Path, student: Any, teacher: Any) -> None:
    before = weights(teacher)
    trainer = made(
        tmp_path,
        student,
        teacher,
        eval_dataset=rows(4, seed=1),
        strategy=LogitStrategy(DistillationLoss(1.0, 1.0)),
        settings={"num_train_epochs": 8},
    )
    first = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < first
    assert all(torch.equal(before[name], value) for name, value in teacher.named_parameters())
    assert not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("own_text", [False, True])
def test_a_step_of_several_batches_is_a_step_of_one(
    tmp_path: Path, teacher: Any, own_text: bool
) -> None:
    """Rows differ in length, so a mean of means would differ; SGD shows the gradient as it is."""
    trained = []
    for size, parts in ((8, 1), (2, 4)):
        student = keep_layers(teacher, [1])
        trainer = made(
            tmp_path,
            student,
            teacher,
            prefixes=Counting() if own_text else None,
            settings={
                "per_device_train_batch_size": size,
                "gradient_accumulation_steps": parts,
                "max_steps": 1,
                "optim": "sgd",
                "max_grad_norm": 0.0,
                "lr_scheduler_type": "constant",
            },
        )
        trainer.train()
        trained.append(weights(student))
    before = weights(keep_layers(teacher, [1]))
    for name, value in trained[0].items():
        moved = (value - before[name]).norm()
        assert (trained[1][name] - value).norm() <= 1e-4 * moved, name


class Counting:
    """Replaces each row by as many tokens as its first id says: other counts than the data's."""

    def batch(self, student: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        kept = 3 + batch["input_ids"][:, :1] % 4
        places = torch.arange(batch["labels"].shape[1])
        return {**batch, "labels": batch["labels"].masked_fill(places > kept, IGNORED)}


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path, teacher: Any) -> None:
    ended = []
    for name, stop in (("whole", None), ("cut", 4)):
        student = keep_layers(teacher, [1])
        given: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "max_steps": 8}
        trainer = made(tmp_path / name, student, teacher, settings=given)
        if stop is not None:
            trainer.add_callback(StopAt(stop))
            trainer.train()
            student = keep_layers(teacher, [1])
            trainer = made(tmp_path / name, student, teacher, settings=given)
            trainer.train(resume_from_checkpoint=True)
        else:
            trainer.train()
        ended.append(weights(student))
        log = json.loads((tmp_path / name / "checkpoint-8" / "trainer_state.json").read_text())
        assert [entry["step"] for entry in log["log_history"]] == list(range(1, 9))
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])


class StopAt(EarlyStoppingCallback):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        pass

    def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def test_training_stops_early_where_evaluation_does_not_improve(
    tmp_path: Path, student: Any, teacher: Any
) -> None:
    trainer = made(
        tmp_path,
        student,
        teacher,
        eval_dataset=rows(2, seed=1),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
        settings={
            "learning_rate": 0.0,
            "max_steps": 50,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "save_strategy": "steps",
            "save_steps": 1,
            "save_total_limit": 1,
            "load_best_model_at_end": True,
            "metric_for_best_model": "loss",
        },
    )
    trainer.train()
    assert trainer.state.global_step == 3


def loss_of(trainer: DistillationTrainer, student: Any, batch: dict[str, Tensor]) -> float:
    with torch.no_grad():
        loss = trainer.compute_loss(student, batch)
    assert isinstance(loss, Tensor)
    return float(loss)


def test_strategies_are_what_they_say(tmp_path: Path, student: Any, teacher: Any) -> None:
    batch = pad_rows(rows(3))
    labels = batch["labels"]

    def cost(strategy: Any, asked: Any = teacher, given: dict[str, Tensor] = batch) -> float:
        return loss_of(made(tmp_path, student, asked, strategy=strategy), student, given)

    logits = student(batch["input_ids"]).logits[:, :-1].detach()
    tokens = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none"
    )
    count = int((labels[:, 1:] != IGNORED).sum())
    assert cost(ResponseStrategy(), None) == pytest.approx(float(tokens.sum()) / count, rel=1e-5)

    reasoning = torch.arange(labels.shape[1]).expand_as(labels) < 4
    weights = torch.where(reasoning, 0.25, 1.0)[:, 1:]
    found = cost(ChainOfThoughtStrategy(0.25), None, {**batch, "reasoning": reasoning})
    assert found == pytest.approx(float((tokens * weights).sum()) / count, rel=1e-5)

    combined = DistillationLoss(1.0, 2.0)
    whole = cost(LogitStrategy(combined))
    assert cost(LogitStrategy(combined, top_k=128)) == pytest.approx(whole, rel=1e-4)
    assert 0 < cost(LogitStrategy(combined, top_k=4)) < whole
    selected = [cost(SelectiveStrategy(TeacherIsSure(p), LogitStrategy(combined))) for p in (0, 2)]
    assert selected == [pytest.approx(whole, rel=1e-6), 0.0]
    strays = cost(SelectiveStrategy(StudentStrays(3), LogitStrategy(combined)))
    assert 0 < strays <= whole

    features = FeatureStrategy(FeatureLoss({-1: -1}, 64, 64), LogitStrategy(combined), weight=2.0)
    alone = FeatureStrategy(features.features, LogitStrategy(combined), weight=0.0)
    assert cost(alone) == pytest.approx(whole, rel=1e-6)
    assert cost(features) > whole


def test_stored_answers_of_the_teacher_cost_what_the_teacher_itself_does(
    tmp_path: Path, student: Any, teacher: Any
) -> None:
    combined, plain = DistillationLoss(0.7, 2.0), rows(3)
    stored = pad_rows(store_teacher(teacher, plain, 128, 2.0))
    found = loss_of(
        made(tmp_path, student, None, strategy=StoredLogitStrategy(combined)), student, stored
    )
    asked = made(tmp_path, student, teacher, strategy=LogitStrategy(combined))
    assert found == pytest.approx(loss_of(asked, student, pad_rows(plain)), rel=1e-4)


def test_projections_of_features_are_trained(tmp_path: Path, student: Any, teacher: Any) -> None:
    features = FeatureLoss({1: 2}, 64, 64)
    features.projections[0] = torch.nn.Linear(64, 64, bias=False)
    before = features.projections[0].weight.detach().clone()
    trainer = made(tmp_path, student, teacher, strategy=FeatureStrategy(features))
    trainer.train()
    assert not torch.equal(features.projections[0].weight, before)
    with pytest.raises(ValueError, match="cannot be resumed"):
        trainer.train(resume_from_checkpoint=True)


def test_own_text_follows_the_prompts_and_ends_at_the_end(student: Any) -> None:
    batch = pad_rows(rows(4))
    student.generation_config.eos_token_id = 7
    student.train()
    torch.manual_seed(0)
    own = StudentPrefixes(40, temperature=20.0).batch(student, batch)  # nearly at random
    assert student.training
    assert torch.equal(own["input_ids"][:, :2], batch["input_ids"][:, :2])
    assert bool((own["labels"][:, :2] == IGNORED).all())
    ended = 0
    for ids, labels, mask in zip(
        own["input_ids"], own["labels"], own["attention_mask"], strict=True
    ):
        said = labels[labels != IGNORED].tolist()
        assert said == ids[2 : 2 + len(said)].tolist()
        assert 7 not in said[:-1]
        assert int(mask.sum()) == 2 + len(said)
        ended += said[-1] == 7
    assert ended


def test_a_share_of_batches_is_the_students_own(student: Any) -> None:
    batch = pad_rows(rows(2))
    mixed = MixedPrefixes(StudentPrefixes(2), share=0.5, seed=0)
    own = [mixed.batch(student, batch) is not batch for _ in range(40)]
    assert 10 <= sum(own) <= 30
    assert not any(
        MixedPrefixes(StudentPrefixes(2), 0.0).batch(student, batch) is not batch for _ in range(5)
    )
    with pytest.raises(ValueError, match="share"):
        MixedPrefixes(StudentPrefixes(2), 1.5)
    with pytest.raises(ValueError, match="no prompt"):
        StudentPrefixes(2).batch(student, {**batch, "labels": batch["input_ids"]})


def test_what_cannot_be_distilled_is_refused(tmp_path: Path, student: Any, teacher: Any) -> None:
    with pytest.raises(ValueError, match="needs a teacher"):
        made(tmp_path, student, None)
    with pytest.raises(ValueError, match="to the student and None to the teacher"):
        made(
            tmp_path,
            student,
            teacher,
            processing_class=make_tokenizer(),
            teacher_processing_class=make_tokenizer(127),
        )


def test_kept_layers_are_the_teachers_and_shared_with_nobody(teacher: Any) -> None:
    ids = torch.arange(12)[None]
    whole = keep_layers(teacher, [0, 1])
    assert torch.equal(whole(ids).logits, teacher(ids).logits)
    one = keep_layers(teacher, [1])
    assert one.config.num_hidden_layers == 1
    assert one.lm_head.weight is one.model.embed_tokens.weight
    mine = {value.data_ptr() for value in teacher.parameters()}
    assert not mine & {value.data_ptr() for value in one.parameters()}
    assert spread(2, 30) == [0, 29]
    assert spread(3, 5) == [0, 2, 4]
    assert spread(1, 4) == [3]
    for wrong in ([], [2], [-1], [1, 1]):
        with pytest.raises(ValueError, match="layers"):
            keep_layers(teacher, wrong)
    with pytest.raises(ValueError, match="of 4 layers"):
        spread(5, 4)
