"""A tiny model with a chat template, and the answers that a server of it should give."""

from __future__ import annotations

import copy

import torch
from measure_fakes import seeded_ids
from tiny_models import VOCABULARY, make_model, make_tokenizer

from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.measure.dtype_error import DtypeError, dtype_error_of

COUNT = 4  # tokens of an answer


def served_engine() -> TransformersEngine:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    tokenizer.eos_token = "w0"
    return TransformersEngine(
        "tiny", copy.deepcopy(make_model("llama")), tokenizer, dtype=torch.float32
    )


def dtype_error_in(engine: TransformersEngine) -> DtypeError:
    ids = seeded_ids("served", 16, VOCABULARY)
    exact = TransformersEngine("exact", make_model("llama").double(), dtype=torch.float64)
    return dtype_error_of(exact.full_logits(ids), engine.full_logits(ids), torch.float32)


class Served:
    """The model's own answers by prompt, as the server should give them."""

    def __init__(self, engine: TransformersEngine) -> None:
        self._engine = engine

    def tokens(self, prompt: str) -> list[int]:
        (tokens,) = self._engine.generate([self._engine.encode(prompt)], [COUNT])
        return tokens[: tokens.index(0)] if 0 in tokens else tokens

    def __call__(self, prompt: str) -> str:
        return self._engine.decode(self.tokens(prompt))

    def unlikely(self, prompt: str) -> str:
        """An answer that begins with the model's last choice."""
        logits = self._engine.full_logits(self._engine.encode(prompt))[-1]
        return f"w{int(logits.argmin())} {self(prompt)}"
