"""The ways by which a prompt meets a prefix cache.

A prompt that nobody has sent is cold, and warm when it is sent again. A second one shares its first
half (partly warm), a third all but its beginning: tokens at the same places behind another past,
which a cache that knows blocks by their own tokens alone takes for the same. The first is then
asked again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_infopt.engines.base import CountedAnswer


@dataclass(frozen=True)
class Prompts:
    """What the prompts of one sample are made of: two beginnings of the same length, drawn for it,
    a text and another's."""

    beginning: list[int]
    another: list[int]
    text: list[int]
    other_text: list[int]

    @property
    def drawn(self) -> int:
        """Tokens before which prompts may be equal by chance."""
        return len(self.beginning)

    def ways(self) -> Iterator[tuple[str, list[int]]]:
        """What is asked, in this order."""
        whole, half = [*self.beginning, *self.text], len(self.text) // 2
        yield "cold", whole
        yield "warm", whole
        yield "partly warm", [*self.beginning, *self.text[:half], *self.other_text[half:]]
        yield "another beginning", [*self.another, *self.text]
        yield "again", whole


@dataclass(frozen=True)
class Asked:
    """A prompt and its answer; ``shared`` tokens may lie in the cache, since others began so."""

    way: str
    prompt: list[int]
    answer: CountedAnswer
    shared: int

    @property
    def unshared(self) -> int:
        """Tokens that are said to be cached, and cannot be."""
        return max(0, (self.answer.cached_tokens or 0) - self.shared)

    @property
    def row(self) -> list[Any]:
        """For the table of what was served."""
        seconds = self.answer.first_token_seconds
        return [self.way, len(self.prompt), self.answer.cached_tokens, seconds]


class Beginnings:
    """The prompts that were sent so far."""

    def __init__(self) -> None:
        self._sent: list[list[int]] = []

    def add(self, prompt: Sequence[int]) -> None:
        self._sent.append(list(prompt))

    def shared_with(self, prompt: Sequence[int]) -> int:
        """How many first tokens of the prompt are those of an earlier one, at most."""
        return max((_equal(prompt, other) for other in self._sent), default=0)


def repetitions(asked: Sequence[Asked]) -> list[tuple[Asked, Asked]]:
    """Each prompt that was sent before, behind its first time."""
    first: dict[tuple[int, ...], Asked] = {}
    pairs = [(first.setdefault(tuple(each.prompt), each), each) for each in asked]
    return [(before, again) for before, again in pairs if before is not again]


def _equal(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
