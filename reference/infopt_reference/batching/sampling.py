"""The next token from a row of logits: greedy, or drawn after temperature, top-k and top-p.

Contract. The distribution is that of `decoding.LogitsPipeline`. A request draws from a generator of
its own, one draw a token: its tokens depend on its seed and its logits, never on the requests
beside it. −∞ is a token that is never drawn; logits that are NaN, or all −∞, are an error.
Leaves out: penalties, min-p, several samples of one prompt.
Legend: V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..decoding.pipeline import LogitsPipeline
from ..decoding.stopping import StoppingRules


@dataclass(frozen=True)
class SamplingParameters:
    """How the tokens of a request are chosen, and when it ends.

    Args:
        temperature: the logits are divided by it; 0 for greedy.
        top_k: how many of the most likely tokens stay; None for all.
        top_p: which share of the probability stays, above 0, up to 1 for all.
        seed: of the request's generator; None for another one each time.
        max_new_tokens: the most tokens to generate.
        stop_token_ids: tokens that end the output, and stay part of it; a model's end of sequence
            is one only if it is named here.
        stop_sequences: runs of tokens that end the output, and stay part of it.

    Raises:
        ValueError: a number is out of its range, or a stop sequence is empty.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None
    max_new_tokens: int = 16
    stop_token_ids: tuple[int, ...] = ()
    stop_sequences: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        # They refuse what is out of range.
        LogitsPipeline(self.temperature, self.top_k, self.top_p)
        StoppingRules(self.max_new_tokens, self.stop_token_ids, self.stop_sequences)


def probabilities(logits: Tensor, parameters: SamplingParameters) -> Tensor:
    """The distribution that a token is drawn from, float64 [V]; one-hot for temperature 0.

    Raises:
        ValueError: there are NaNs among the logits [V], +∞, or nothing above −∞.
    """
    pipeline = LogitsPipeline(parameters.temperature, parameters.top_k, parameters.top_p)
    return pipeline(logits[None])[0]


class Sampler:
    """Chooses the tokens of one request."""

    def __init__(self, parameters: SamplingParameters) -> None:
        self.parameters = parameters
        self._generator = torch.Generator()  # on the CPU: the same draws with any device
        if parameters.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(parameters.seed)

    @property
    def is_greedy(self) -> bool:
        return self.parameters.temperature == 0

    def __call__(self, logits: Tensor) -> int:
        """The next token after logits [V].

        Raises:
            ValueError: as `probabilities`.
        """
        chances = probabilities(logits, self.parameters)
        if self.is_greedy:
            return int(chances.argmax())
        return int(torch.multinomial(chances.cpu(), 1, generator=self._generator))


def sample_rows(logits: Tensor, samplers: Sequence[Sampler]) -> list[int | ValueError]:
    """The next token of each row of logits [n, V], or why there is none.

    Greedy rows are chosen at once; the others are drawn one by one.
    """
    peaks, best = (x.tolist() for x in logits.max(dim=1))
    tokens: list[int | ValueError] = []
    for row, sampler, peak, token in zip(logits, samplers, peaks, best, strict=True):
        if sampler.is_greedy and math.isfinite(peak):
            tokens.append(token)
            continue
        try:
            tokens.append(sampler(row))
        except ValueError as error:
            tokens.append(error)
    return tokens
