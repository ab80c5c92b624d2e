"""What a side says of a prompt, and what it observed meanwhile.

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Answer", "Prompt", "Token"]

Prompt = str | Sequence[int]
Token = int | str
WORD = re.compile(r"\s*\S+|\s+$")  # with the space before it: what a text has for tokens

# Orders arrivals of all answers of this process; the next number of a count is drawn atomically.
_arrivals = itertools.count()


@dataclass(frozen=True)
class Answer:
    """One side's answer to one prompt: logits, or tokens.

    ``logits`` [T, V] are those of the prompt's positions; fewer rows are those of its last ones.
    ``tokens`` are a greedy continuation, ``top`` the log-probabilities (nats) of the most probable
    tokens at each of them, where the side tells them.

    The rest is proof that an axis was exercised, None where the side does not tell it: how many of
    the prompt's tokens came from a cache, how many requests were computed together with this one
    (itself included), in how many passes the prompt was computed, and the order of the first and
    the last token's arrival among those of all answers.
    """

    tokens: Sequence[Token] = ()
    logits: Any = None
    top: Sequence[Mapping[Any, float]] = ()  # Any: a mapping's keys are invariant
    cached_tokens: int | None = None
    together: int | None = None
    passes: int | None = None
    span: tuple[int, int] | None = None


def arrival() -> int:
    """The place of what arrives now in the order of all arrivals."""
    return next(_arrivals)


def answer_of(result: object) -> Answer:
    """What a callable returned, as an answer: an `Answer`, logits [T, V] or [V] as an array of
    floating-point numbers, tokens, or an iterator that yields tokens as they come.

    Raises TypeError for anything else.
    """
    import torch

    if isinstance(result, Answer):
        return result
    if isinstance(result, Iterator):
        return _streamed(result)
    if hasattr(result, "__array__") or isinstance(result, torch.Tensor):
        array = torch.as_tensor(result).detach()
        if array.is_floating_point() and array.ndim in (1, 2):
            return Answer(logits=array if array.ndim == 2 else array[None])
        if not array.is_floating_point() and array.ndim == 1:
            return Answer(tokens=array.tolist())
        result = f"an array of {array.dtype} with {array.ndim} dimensions"
    elif (
        isinstance(result, Sequence)
        and not isinstance(result, str)
        and all(isinstance(token, (int, str)) for token in result)
    ):
        return Answer(tokens=tuple(result))
    raise TypeError(
        f"a side answered {result!r:.80}; it returns logits [positions, vocabulary], a sequence of "
        "tokens, an iterator of tokens, or a pytest_infopt.Answer"
    )


def _streamed(tokens: Iterable[Token]) -> Answer:
    found = [(token, arrival()) for token in tokens]
    span = (found[0][1], found[-1][1]) if found else None
    return Answer(tokens=[token for token, _ in found], span=span)


def most_together(answers: Iterable[Answer]) -> int:
    """The most requests that were computed at once, as the answers tell: by their own word, or
    since one's tokens came between the tokens of another. 0 where nothing tells it."""
    told, edges = 0, []
    for answer in answers:
        told = max(told, answer.together or 0)
        if answer.span is not None:
            edges += [(answer.span[0], 1), (answer.span[1] + 1, -1)]
    running = itertools.accumulate(step for _, step in sorted(edges))
    return max([told, *running])


def choices(answer: Answer) -> list[Token]:
    """The greedy tokens: those told, or the largest logits."""
    if answer.logits is None:
        return list(answer.tokens)
    found: list[Token] = logits_of(answer).argmax(-1).tolist()
    return found


def logits_of(answer: Answer) -> torch.Tensor:
    """The answer's logits as a tensor [T, V]."""
    import torch

    return torch.as_tensor(answer.logits).detach()


def gaps(answer: Answer) -> list[float]:
    """By how much the best token's log-probability exceeds the second's, at each position; empty
    where the answer does not tell."""
    if answer.logits is not None:
        best = logits_of(answer).double().topk(2, -1).values
        found: list[float] = (best[:, 0] - best[:, 1]).tolist()
        return found
    rows = [sorted(row.values(), reverse=True) for row in answer.top]
    if not rows or min(map(len, rows)) < 2:
        return []
    return [row[0] - row[1] for row in rows]
