"""The next token from a row of logits: greedy, or drawn after temperature, top-k and top-p.

    p = softmax(logits / temperature)
    top-k    keeps the k most likely tokens, and all that are as likely as the k-th
    top-p    keeps the fewest of those left whose probabilities, made to sum to 1, reach top_p;
             of equally likely ones the lower ids

and what is kept is made to sum to 1 again. Temperature 0 is greedy: the most likely token, of
equals the lowest id.

Contract. Computed in float64. A request draws from a generator of its own, one draw a token: its
tokens depend on its seed and its logits, never on the requests beside it. −∞ is a token that is
never drawn; logits that are NaN, or all −∞, are an error.
Leaves out: penalties, min-p, typical sampling, several samples of one prompt.
Sources: Fan et al. 2018, "Hierarchical Neural Story Generation", section 5.4 (top-k); Holtzman et
al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1 (top-p).
Legend: V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; give 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; give 1 or more, or None for all tokens")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; give more than 0, and 1 at most")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; give 1 or more")
        if not all(self.stop_sequences):
            raise ValueError("a stop sequence is empty; leave it out")


def probabilities(logits: Tensor, parameters: SamplingParameters) -> Tensor:
    """The distribution that a token is drawn from, float64 [V]; one-hot for temperature 0.

    Raises:
        ValueError: there are NaNs among the logits [V], +∞, or nothing above −∞.
    """
    scores = logits.double()
    peak = scores.max()
    if not math.isfinite(peak):  # the largest of a row with a NaN is NaN
        raise ValueError(
            f"the largest logit is {peak.item()}; logits are finite, or −∞ for tokens never drawn"
        )
    if parameters.temperature == 0:
        return torch.zeros_like(scores).index_fill(0, scores.argmax(), 1)
    # Without its peak first: a temperature near 0 must not make infinity of all logits.
    chances = torch.softmax((scores - peak) / parameters.temperature, dim=0)
    if parameters.top_k is not None and parameters.top_k < len(chances):
        least = chances.topk(parameters.top_k).values[-1]
        chances = _renormalised(chances.where(chances >= least, 0))
    if parameters.top_p < 1:
        ordered, order = chances.sort(descending=True, stable=True)
        before = ordered.cumsum(0) - ordered  # what the tokens ahead of each have already
        kept = ordered.where(before < parameters.top_p, 0)
        chances = _renormalised(torch.zeros_like(chances).scatter(0, order, kept))
    return chances


def _renormalised(chances: Tensor) -> Tensor:
    return chances / chances.sum()


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
