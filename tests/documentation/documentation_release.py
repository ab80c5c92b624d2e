"""A tiny release for what the pages say: a random-weight model and a corpus of its words."""

from __future__ import annotations

import json
import random
from pathlib import Path

# pytester forgets modules that a run inside this process is the first to import, and torch's parts
# cannot be imported twice.
import transformers.quantizers  # noqa: F401
from tiny_models import VOCABULARY, make_model, make_tokenizer

import pytest_infopt.engines.loaders  # noqa: F401


def write_model(folder: Path) -> None:
    """The reference that pages call ./my-model."""
    make_model("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def write_corpus(path: Path, documents: int = 40, tokens: int = 24) -> None:
    """Random words of the model, one document a line."""
    words = random.Random(0)
    lines = [
        {"id": f"d{i}", "text": " ".join(f"w{words.randrange(VOCABULARY)}" for _ in range(tokens))}
        for i in range(documents)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
