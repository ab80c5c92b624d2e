"""A draft for speculative decoding: six layers of the embedded model, distilled on one core.

    python3 examples/distillation/draft.py students --bfloat16
    python3 examples/distillation/speculate.py students/draft

The layers are those that are left when, again and again, `least_needed` goes. The teacher is asked
once, and its likeliest tokens are stored; after that, an epoch costs the student's own passes. The
embedding, which is the head too, stays as it is. It takes twenty minutes on a core that multiplies
in bfloat16, and some forty without; a run that was ended goes on at its last checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from distil import embedded_model, training_arguments, training_rows
from infopt_reference.distillation import (
    DistillationLoss,
    DistillationTrainer,
    StoredLogitStrategy,
    keep_layers,
    store_teacher,
)

KEPT = [0, 1, 2, 21, 24, 29]
STORED = 64  # tokens of each distribution


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    directory = options.students / "draft"
    directory.mkdir(parents=True, exist_ok=True)
    teacher, tokenizer = embedded_model()
    with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
        rows = stored_rows(teacher, tokenizer, directory / "teacher.pt")
    draft = keep_layers(teacher, options.layers)
    draft.get_input_embeddings().requires_grad_(False)
    arguments = training_arguments(
        directory,
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        warmup_steps=10,
        bf16=options.bfloat16,
        save_strategy="steps",
        save_steps=20,
        save_total_limit=1,
    )
    strategy = StoredLogitStrategy(DistillationLoss(1.0, 1.0))
    trainer = DistillationTrainer(draft, None, arguments, strategy=strategy, train_dataset=rows)
    begun = any(directory.glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=begun)
    trainer.save_state()
    draft.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def stored_rows(teacher: Any, tokenizer: Any, path: Path) -> list[dict[str, torch.Tensor]]:
    """The rows with what the teacher says of them, asked once."""
    if not path.exists():
        rows = store_teacher(teacher, training_rows(tokenizer), STORED, temperature=1.0)
        torch.save(rows, path)
    found: list[dict[str, torch.Tensor]] = torch.load(path)
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="distil a draft for speculative decoding")
    parser.add_argument("students", type=Path, help="a directory; the draft goes to draft/ in it")
    parser.add_argument("--layers", type=int, nargs="+", default=KEPT)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=8e-4)
    parser.add_argument("--bfloat16", action="store_true", help="multiply in it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
