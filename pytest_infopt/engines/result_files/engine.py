"""A model of which only records are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from ...errors import NotSupportedError
from ..base import Capability
from .recording import Recording


class RecordedEngine:
    """`engines.base.RecordedEngine`: it can be asked for nothing but the records."""

    capabilities = frozenset({Capability.RECORDED})
    dtype = "float32"
    device = "files"
    vocabulary = 0
    context_window = 0
    tokenizer_fingerprint = ""

    def __init__(self, name: str, fingerprint: str, recordings: Sequence[Recording]) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.recordings = tuple(recordings)

    def encode(self, text: str, begins_with: str = "nothing") -> NoReturn:
        raise NotSupportedError(f"model {self.name!r} is recorded: it reads no texts")

    def decode(self, token_ids: Sequence[int]) -> NoReturn:
        raise NotSupportedError(f"model {self.name!r} is recorded: it reads no tokens")

    def close(self) -> None:
        pass
