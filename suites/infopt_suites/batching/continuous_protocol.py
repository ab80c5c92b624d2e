"""What the suite for continuous batchers talks to: minimal protocols for a thin adapter."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class ContinuousLimits:
    """The batcher that the suite asks for.

    It has memory for ``num_blocks`` blocks of ``block_size`` tokens, runs ``max_num_seqs`` requests
    at a time, and computes ``max_num_batched_tokens`` tokens in a step.
    """

    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int


@dataclass(frozen=True)
class GenerationParameters:
    """How a request's tokens are chosen, and when it ends. The suite uses what is claimed alone.

    ``temperature`` 0 is greedy. Of the others, the ``top_k`` most likely tokens may be drawn, and
    the fewest whose probabilities reach ``top_p``. ``stop_token_ids`` end the output and stay part
    of it, and so do ``stop_sequences``, runs of tokens.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    stop_sequences: tuple[tuple[int, ...], ...] = ()


class ContinuousBatcher(Protocol):
    """Generates for many callers at once on one model."""

    async def start(self) -> None:
        """Begin to serve."""

    async def stop(self) -> None:
        """Serve nobody any more: every caller has an outcome when it returns."""

    async def generate(
        self, prompt_ids: Sequence[int], parameters: GenerationParameters
    ) -> Sequence[int]:
        """The new tokens, the one that stopped it included.

        Raises for a request that could never run, and where nobody serves. Who is cancelled takes
        the request with it.
        """


class StreamingBatcher(ContinuousBatcher, Protocol):
    """Capability "stream"."""

    def stream(
        self, prompt_ids: Sequence[int], parameters: GenerationParameters
    ) -> AsyncGenerator[int]:
        """The tokens of `generate`, each as soon as it is known; to close it aborts the request."""


class CountedBatcher(ContinuousBatcher, Protocol):
    """Capability "blocks"."""

    @property
    def num_free_blocks(self) -> int:
        """Blocks that no request holds."""


class AbortingBatcher(ContinuousBatcher, Protocol):
    """Capability "abort"."""

    async def generate(
        self,
        prompt_ids: Sequence[int],
        parameters: GenerationParameters,
        request_id: str | None = None,
    ) -> Sequence[int]:
        """As before; an id may be used again when its request has ended."""

    async def abort(self, request_id: str) -> None:
        """End a request: its caller gets an exception, or the tokens so far. One that has ended, or
        that nobody knows, is left alone."""


class SamplingBatcher(ContinuousBatcher, Protocol):
    """Capability "samples"."""

    async def generate_samples(
        self, prompt_ids: Sequence[int], parameters: GenerationParameters, count: int
    ) -> Sequence[Sequence[int]]:
        """So many outputs of one prompt, each drawn by itself; with a seed, the same each time."""


class MakeContinuousBatcher(Protocol):
    """The factory that `ContinuousBatchingSuite` asks for."""

    def __call__(self, model: Any, limits: ContinuousLimits) -> ContinuousBatcher:
        """A batcher that is not started, on a causal model of transformers of its own."""
