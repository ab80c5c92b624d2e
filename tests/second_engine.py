"""An engine that has scores and a token stream, and nothing else: a byte follows the one before it.

``model`` is a directory whose text.txt the model is counted from; the option ``damage`` moves its
log-probabilities at random. Self-contained, so that a test may write this file into a package.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pytest_infopt.engines.base import Capability, Scores, TokenEvent
from pytest_infopt.engines.registry import EngineSpec
from pytest_infopt.release import ModelSource

CAPABILITIES = frozenset({Capability.SCORES, Capability.STREAM})
VOCABULARY = 256


@dataclass(frozen=True)
class BigramScores:
    """Rows of the table [256, 256] of log-probabilities, one for each byte of a text."""

    table: torch.Tensor
    token_ids: Sequence[int]
    vocabulary: int = VOCABULARY

    @property
    def positions(self) -> int:
        return len(self.token_ids)

    def logits(self, start: int, stop: int) -> torch.Tensor:
        return self.table[list(self.token_ids[start:stop])]


class BigramEngine:
    """Bytes are tokens; pairs of them are counted, each once more than it occurs."""

    capabilities = CAPABILITIES
    tokenizer_fingerprint = "bytes"
    dtype = "float32"
    device = "cpu"
    vocabulary = VOCABULARY
    context_window = 2**20

    def __init__(self, name: str, text: str, damage: float = 0.0) -> None:
        self.name = name
        self.fingerprint = hashlib.sha256(f"{damage} {text}".encode()).hexdigest()
        ids = torch.tensor(self.encode(text))
        pairs = torch.bincount(ids[:-1] * VOCABULARY + ids[1:], minlength=VOCABULARY**2)
        counts = pairs.reshape(VOCABULARY, VOCABULARY) + 1.0
        noise = torch.randn(counts.shape, generator=torch.Generator().manual_seed(0))
        self._table = (counts / counts.sum(1, keepdim=True)).log() + damage * noise

    def encode(self, text: str, begins_with: str = "nothing") -> list[int]:
        return list(text.encode())  # there are no special tokens to begin with

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode(errors="replace")

    def score(self, token_ids: Sequence[int]) -> Scores:
        return BigramScores(self._table, token_ids)

    def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]:
        token = prompt_ids[-1]
        for _ in range(max_new_tokens):
            token = int(self._table[token].argmax())
            yield TokenEvent(token, time.perf_counter())

    def close(self) -> None: ...


def load(source: ModelSource) -> BigramEngine:
    text = (Path(source.model) / "text.txt").read_text(encoding="utf-8")
    return BigramEngine(source.name, text, float(source.options.get("damage", 0.0)))


ENGINE = EngineSpec("bigram", "bytes by the byte before them", CAPABILITIES, f"{__name__}:load")
