"""The distribution that a token is drawn from: penalties, temperature, top-k, top-p, min-p.

    repetition   logits of tokens in prompt or output: divided by the penalty above 0, else times it
    presence     less the penalty for tokens in the output
    frequency    less the penalty for each time that the token is in the output
    p = softmax(logits / temperature)
    top-k        keeps the k most likely tokens, and all that are as likely as the k-th
    top-p        keeps the fewest of those left whose probabilities, made to sum to 1, reach top_p;
                 of equally likely ones the lower ids
    min-p        keeps tokens at least min_p times as likely as the most likely

in this order, and what is kept is made to sum to 1. Temperature 0 is greedy: all probability on the
most likely token, of equals the lowest id.

Contract. Computed in float64. A row depends on its own logits and tokens alone, so a target and its
draft go through one pipeline, whatever is verified with them. −∞ is a token that is never drawn;
logits that are NaN, or all −∞, are an error.
Leaves out: typical sampling, bans of words, grammars.
Sources: Fan et al. 2018, "Hierarchical Neural Story Generation", section 5.4 (top-k); Holtzman et
al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1 (top-p); Nguyen et al. 2024,
"Turning Up the Heat: Min-p Sampling"; Keskar et al. 2019, "CTRL", section 4.1 (repetition);
OpenAI's API reference (presence, frequency).
Legend: N rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Tokens = Sequence[int]


@dataclass(frozen=True)
class LogitsPipeline:
    """What is done to logits before a token is drawn; as given, the softmax alone.

    Raises:
        ValueError: a number is out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; give 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; give 1 or more, or None for all tokens")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; give more than 0, and 1 at most")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}; give 0 (all tokens) to 1")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(
                f"repetition_penalty is {self.repetition_penalty}; give more than 0, 1 for none"
            )
        for name in ("presence_penalty", "frequency_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; give a finite number")

    @property
    def needs_tokens(self) -> bool:
        """Whether the distribution depends on the tokens so far, beside the logits."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    def __call__(
        self, logits: Tensor, rows: Sequence[Tokens] = (), prompts: Sequence[int] = ()
    ) -> Tensor:
        """The distributions, float64 [N, V], behind ``rows`` of tokens, which `needs_tokens` asks
        for; the first ``prompts[i]`` tokens of row i are its prompt.

        Raises:
            ValueError: a row of the logits [N, V] has NaNs, +∞, or nothing above −∞.
        """
        scores = logits.double()
        if self.needs_tokens:
            rows_of_scores = zip(scores, rows, prompts, strict=True)
            scores = torch.stack([self._penalised(*each) for each in rows_of_scores])
        peaks = scores.amax(dim=-1, keepdim=True)
        if not peaks.isfinite().all():  # the largest of a row with a NaN is NaN
            wrong = peaks[~peaks.isfinite()][0].item()
            raise ValueError(
                f"the largest logit is {wrong}; logits are finite, or −∞ for tokens never drawn"
            )
        if self.temperature == 0:
            return torch.zeros_like(scores).scatter(-1, scores.argmax(-1, keepdim=True), 1)
        # Without its peak first: a temperature near 0 must not make infinity of all logits.
        return self._truncated(torch.softmax((scores - peaks) / self.temperature, dim=-1))

    def _penalised(self, scores: Tensor, row: Tokens, prompt: int) -> Tensor:
        seen = torch.tensor(sorted({*row}), device=scores.device)
        before, by = scores[seen], self.repetition_penalty
        scores = scores.index_copy(0, seen, torch.where(before > 0, before / by, before * by))
        output = torch.tensor(row[prompt:], dtype=torch.long, device=scores.device)
        counts = torch.bincount(output, minlength=len(scores))
        return scores - counts * self.frequency_penalty - (counts > 0) * self.presence_penalty

    def _truncated(self, chances: Tensor) -> Tensor:
        if self.top_k is not None and self.top_k < chances.shape[-1]:
            least = chances.topk(self.top_k, dim=-1).values[..., -1:]
            chances = _renormalised(chances.where(chances >= least, 0))
        if self.top_p < 1:
            ordered, order = chances.sort(dim=-1, descending=True, stable=True)
            before = ordered.cumsum(-1) - ordered  # what the tokens ahead of each have already
            kept = ordered.where(before < self.top_p, 0)
            chances = _renormalised(torch.zeros_like(chances).scatter(-1, order, kept))
        if self.min_p > 0:
            least = self.min_p * chances.amax(dim=-1, keepdim=True)
            chances = _renormalised(chances.where(chances >= least, 0))
        return chances


def _renormalised(chances: Tensor) -> Tensor:
    return chances / chances.sum(dim=-1, keepdim=True)


def drawn(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Token ids [N], drawn in proportion to weights [N, V] with one uniform number each [N].

    A token of weight 0 is never drawn.
    """
    sums = weights.cumsum(-1)
    total = sums[:, -1]
    # Below the total whatever is rounded: at it, nothing would be left to draw.
    below = torch.minimum(uniforms.to(total) * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(sums, below[:, None], right=True)[:, 0]
