"""What the suite for speculative decoders talks to: minimal protocols for a thin adapter.

Legend: n tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Tokens = Sequence[int]


@dataclass(frozen=True)
class DecodingParameters:
    """How tokens are chosen, and when an output ends. The suite uses what is claimed alone.

    ``temperature`` 0 is greedy. At most one of ``top_k``, ``top_p`` and ``min_p`` is set: the k
    most likely tokens; the fewest whose probabilities reach ``top_p``; those at least ``min_p``
    times as likely as the most likely. ``repetition_penalty`` divides positive logits of tokens in
    prompt or output, and multiplies others; ``presence_penalty`` and ``frequency_penalty`` are
    taken from logits of tokens in the output, once and for each time. ``processor`` takes all
    tokens so far and their logits [V], and gives the logits to use. ``stop_token_ids`` and
    ``stop_sequences``, runs of tokens, end the output and stay part of it.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    processor: Callable[[Tokens, Tensor], Tensor] | None = None
    stop_token_ids: tuple[int, ...] = ()
    stop_sequences: tuple[tuple[int, ...], ...] = ()


class TokenCache(Protocol):
    """What a `LanguageModel` holds of one sequence."""

    def __len__(self) -> int:
        """How many tokens it holds."""

    def crop(self, length: int) -> None:
        """Keep the first ``length`` tokens."""


class LanguageModel(Protocol):
    """The models that the suite brings: a target and a draft of one vocabulary."""

    vocab_size: int

    def __call__(self, tokens: Tokens) -> Tensor:
        """Logits [n, V], float64, behind each of n tokens, the first of a sequence."""

    def new_cache(self) -> TokenCache:
        """A cache that holds nothing."""

    def extend(self, cache: TokenCache, tokens: Tokens) -> Tensor:
        """Logits [n, V] behind each of n more tokens, which the cache holds from then on."""


class SpeculativeDecoder(Protocol):
    """Decodes with a target and a draft."""

    def generate(self, prompt: Tokens, parameters: DecodingParameters, seed: int) -> Tokens:
        """The new tokens, the one that ends them included."""


class SampleDecoder(SpeculativeDecoder, Protocol):
    """Capability "samples"."""

    def generate_samples(
        self, prompt: Tokens, parameters: DecodingParameters, seed: int, count: int
    ) -> Sequence[Tokens]:
        """So many outputs of one prompt, each drawn by itself."""


class BatchDecoder(SpeculativeDecoder, Protocol):
    """Capability "batches"."""

    def generate_batch(
        self, prompts: Sequence[Tokens], parameters: DecodingParameters, seeds: Sequence[int]
    ) -> Sequence[Tokens]:
        """The output of each prompt."""


@dataclass(frozen=True)
class SpeculativeCounts:
    """What outputs took: passes of the target, drafted tokens, and those that were emitted."""

    target_passes: int
    drafted: int
    accepted: int


class CountingDecoder(SpeculativeDecoder, Protocol):
    """Capability "counts"."""

    def counts(self) -> SpeculativeCounts:
        """Of the last call, over all its outputs."""


class CandidateDecoder(SpeculativeDecoder, Protocol):
    """Capability "candidates"."""

    def generate_from_candidates(
        self,
        prompt: Tokens,
        parameters: DecodingParameters,
        propose: Callable[[Tokens], Sequence[Tokens]],
        seed: int,
    ) -> Tokens:
        """As ``generate``, with drafts that were chosen and not drawn: for all tokens so far,
        ``propose`` gives ways to go on, which may begin alike."""


class MakeSpeculativeDecoder(Protocol):
    """The factory that `SpeculativeSuite` asks for."""

    def __call__(
        self, target: LanguageModel, draft: LanguageModel, lookahead: int
    ) -> SpeculativeDecoder:
        """A decoder that drafts up to ``lookahead`` tokens for a pass of the target."""
