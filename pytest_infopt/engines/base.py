"""The engine contract: a loaded model that can be scored, streamed and weighed.

Measuring code knows engines by these protocols only, so that what it measures on a transformers
model in process it measures on a server too, as far as the server's capabilities reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Capability(StrEnum):
    """What an engine can do beyond scoring; a gate that needs more than that asks first."""

    FULL_LOGITS = "full logits"  # every vocabulary entry, not a server's top k
    HIDDEN_STATES = "hidden states"  # scores can be kept as hidden states, and made from them again
    MODULES = "modules"  # the torch module is at hand: dtype errors, localisation
    CACHE = "cache"  # can be driven step by step through its KV cache
    STREAM = "stream"  # can generate token by token, with arrival times
    MEMORY = "memory"  # can say what its weights and caches weigh


class Scores(Protocol):
    """Teacher-forced next-token logits of one document, computed a few rows at a time.

    Row t holds the logits of the token after position t. The whole matrix is never needed, and for
    a vocabulary of 151,936 it would be 2.5 GB at 4,096 positions.
    """

    @property
    def positions(self) -> int:
        """Rows: one for each token of the document."""

    @property
    def vocabulary(self) -> int:
        """Columns."""

    def logits(self, start: int, stop: int) -> torch.Tensor:
        """Rows start…stop−1, [stop − start, vocabulary], in the engine's own dtype."""


@dataclass(frozen=True)
class TokenEvent:
    """A generated token and when it arrived, in seconds of `time.perf_counter`."""

    token_id: int
    arrived: float


@dataclass(frozen=True)
class MemoryFootprint:
    """Bytes by category. Peaks are None where the device has no allocator that reports them."""

    weight_bytes: int
    buffer_bytes: int
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None


class Engine(Protocol):
    """A loaded model.

    ``dtype`` is the compute dtype's name ("float32", "bfloat16", "float16"): the format whose own
    rounding the equivalence gate grants. ``fingerprint`` identifies weights and loader options,
    ``tokenizer_fingerprint`` the mapping from text to ids.
    """

    name: str
    fingerprint: str
    tokenizer_fingerprint: str
    capabilities: frozenset[Capability]
    dtype: str
    device: str
    vocabulary: int
    context_window: int

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids."""

    def score(self, token_ids: Sequence[int]) -> Scores:
        """Teacher-forced logits; raises NonFiniteLogitsError when they hold NaN or infinity."""

    def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]:
        """Greedy tokens as they arrive; exactly max_new_tokens, whatever the end token says."""

    def memory(self) -> MemoryFootprint:
        """What the model weighs now, and its peaks since the last `reset_peaks`."""

    def reset_peaks(self) -> None:
        """Start the peak counters anew."""

    def close(self) -> None:
        """Give the model's memory back; the engine is unusable afterwards."""


class WholeLogitsEngine(Engine, Protocol):
    """An engine that gives whole logit matrices (Capability.FULL_LOGITS)."""

    def full_logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Logits of one plain forward pass, [T, V]."""

    def batch_logits(self, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Each prompt's logits from one left-padded batch, [T_i, V] each."""


ScoringEngine = WholeLogitsEngine
StreamingEngine = Engine
