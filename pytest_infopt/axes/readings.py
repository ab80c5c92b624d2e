"""What `assert_same_model` reads of a request: how far answers are from the reference's.

    first token    log-probabilities of the first token: mean distance over the tokens both tell
                   (Chauvin et al. 2025, "Log Probability Tracking of LLM APIs", arXiv 2512.03816)
    border inputs  the first token alone, behind prompts where two are nearly tied (Chauvin et al.
                   2026, "Token-Efficient Change Detection in LLM APIs", B3IT, arXiv 2602.11083)
    shared seed    tokens drawn by adding the same Gumbel noise to both sides' logits: by how much
                   the token drawn falls short of the reference's best, noise included (Karvonen et
                   al. 2025, "DiFR", Token-DiFR, arXiv 2511.20621). Where a side draws by itself
                   from a seed, as servers do: the share of words from the first other one on

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InvalidComparisonError
from .answers import WORD, Answer, Prompt, answer_of, choices, logits_of
from .sides import Side

if TYPE_CHECKING:
    import torch

Sides = tuple[Side, Side, Side]  # the reference, its control, the other
Ask = Callable[[Side, Prompt, int], Answer]
Distances = Callable[[Answer, Sequence[Answer], int], list[float]]

FIRST, BORDER, SEEDED = "first token", "border inputs", "shared seed"
DRAWN = 16  # tokens of a request that is drawn from a seed
_SEEDS = 3  # by which the samplers of two sides are compared
# At which logits drown in the noise: what is drawn tells the sampler, and nothing of the model.
_NOISE_ALONE = 1e6


@dataclass(frozen=True)
class Reading:
    """How sides are asked, and how far answers then are from the first side's. Both take a seed."""

    ask: Ask
    distances: Distances

    def tokens(self, answer: Answer) -> int:
        """Output tokens that it takes of an answer."""
        if self.distances in (_first_tokens, _border_tokens):
            return 1
        return len(answer.tokens if answer.logits is None else answer.logits)


def reading_of(by: str, sides: Sides, prompt: Prompt) -> Reading:
    """What ``by`` reads of the sides. Raises InvalidComparisonError where they draw from seeds that
    do not decide what is drawn, as tried on ``prompt``."""
    here = all(side.model is not None for side in sides)  # one pass draws at every position
    if by != SEEDED or here or any(side.seeded is None for side in sides):
        return Reading(lambda side, prompt, seed: answer_of(side.answer(prompt)), _DISTANCES[by])
    _check_samplers(sides, prompt)
    return Reading(_drawn, _parted)


def _first_tokens(base: Answer, others: Sequence[Answer], seed: int) -> list[float]:
    """Mean distance of the log-probabilities of the tokens that both tell."""
    own, found = _row(base), list[float]()
    for row in map(_row, others):
        shared = own.keys() & row.keys()
        if not shared:
            raise InvalidComparisonError(
                "by first token, both sides tell log-probabilities of the same tokens; one tells "
                "none, or other tokens alone: use border inputs, which read tokens"
            )
        found.append(sum(abs(own[token] - row[token]) for token in shared) / len(shared))
    return found


def _row(answer: Answer) -> dict[object, float]:
    if answer.logits is None:
        return dict(answer.top[0]) if answer.top else {}
    last = logits_of(answer)[-1].double().log_softmax(-1)
    return dict(enumerate(last.tolist()))


def _border_tokens(base: Answer, others: Sequence[Answer], seed: int) -> list[float]:
    """Whether the first token is another: 0 or 1."""
    place = 0 if base.logits is None else -1
    own, *found = (choices(answer)[place:][:1] for answer in (base, *others))
    return [float(token != own) for token in found]


def _shortfalls(base: Answer, others: Sequence[Answer], seed: int) -> list[float]:
    """By how much the tokens that the others draw fall short under the noise, on average: tokens of
    a request share what the request met, so that it is one reading."""
    import torch

    if any(answer.logits is None for answer in (base, *others)):
        raise InvalidComparisonError(
            "by shared seed, all sides give logits, to which the noise is added, or all draw from "
            "seeds themselves, as servers do; use first token for sides that tell "
            "log-probabilities, border inputs for tokens"
        )
    noise = gumbel_noise(logits_of(base).shape, seed)
    own = logits_of(base).double().cpu() + noise
    best, found = own.amax(-1), list[float]()
    for answer in others:
        drawn = (logits_of(answer).double().cpu() + noise).argmax(-1, keepdim=True)
        short = best - own.gather(1, drawn)[:, 0]
        found.append(float(torch.nan_to_num(short).mean()))
    return found


def gumbel_noise(shape: Sequence[int], seed: int) -> torch.Tensor:
    """Noise of which the largest logit is a draw of the softmax (Gumbel 1954)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return -torch.empty(*shape, dtype=torch.float64).exponential_(generator=generator).log()


_DISTANCES: dict[str, Distances] = {
    FIRST: _first_tokens,
    BORDER: _border_tokens,
    SEEDED: _shortfalls,
}


# Sides that draw by themselves


def _drawn(side: Side, prompt: Prompt, seed: int, temperature: float = 1.0) -> Answer:
    assert side.seeded is not None
    tokens = answer_of(side.seeded(prompt, seed, temperature)).tokens
    texts = [token for token in tokens if isinstance(token, str)]
    # Sides cut a text into tokens as they please: their words are compared.
    return Answer(WORD.findall("".join(texts)) if len(texts) == len(tokens) else tokens)


def _parted(base: Answer, others: Sequence[Answer], seed: int) -> list[float]:
    """The share of tokens from the first other one on: behind it, texts are others."""
    return [1 - _common(base.tokens, answer.tokens) for answer in others]


def _common(one: Sequence[object], other: Sequence[object]) -> float:
    same = (a == b for a, b in zip(one, other, strict=False))
    place = next((n for n, equal in enumerate(same) if not equal), min(len(one), len(other)))
    return place / max(len(one), len(other), 1)


def _check_samplers(sides: Sides, prompt: Prompt) -> None:
    """Whether tokens that the sides draw follow from the seed, and by the same sampler: asked at a
    temperature at which the model has no say.

    Raises InvalidComparisonError with what does not hold.
    """
    a, control, b = (
        [list(_drawn(side, prompt, seed, _NOISE_ALONE).tokens[:1]) for seed in range(_SEEDS)]
        for side in sides
    )
    if a != control:
        why = "draws other tokens when it is asked with the same seed again"
    elif all(token == a[0] for token in a):
        why = f"draws the same token from {_SEEDS} seeds: it ignores seed or temperature"
    elif a != b:
        why = (
            "draws by another sampler than b: from the same seed, noise alone makes other tokens; "
            "where they keep their model's best tokens alone, switch that off in the server's body "
            "(top_k = 0, min_p = 0)"
        )
    else:
        return
    raise InvalidComparisonError(
        f"by shared seed, side a {why} ({a}, {control}, and {b} of b). Else use first token or "
        "border inputs"
    )
