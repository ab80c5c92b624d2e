"""The ways by which a prompt meets a prefix cache.

A prompt that nobody has sent is cold, and warm when it is sent again. A second one shares its first
half (partly warm), a third all but its beginning: tokens at the same places behind another past,
which a cache that knows blocks by their own tokens alone takes for the same. The first is then
asked again. Prompts that share a new beginning are sent at once, cold, and once more; each is then
sent alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_infopt.engines.base import CountedAnswer

ONE_BY_ONE = ("cold", "warm", "partly warm", "another beginning", "again")
AT_ONCE = ("at once, cold", "at once, warm")
ALONE = "alone"
Prompt = list[int]


@dataclass(frozen=True)
class Prompts:
    """What the prompts of one sample are made of: three beginnings of the same length, drawn for
    it, a text and another's. ``read`` makes of tokens those that a server reads in their text."""

    beginnings: tuple[Prompt, Prompt, Prompt]
    text: Prompt
    other_text: Prompt
    read: Callable[[Prompt], Prompt]

    @property
    def drawn(self) -> int:
        """Tokens before which prompts may be equal by chance: what stands before every prompt, and
        a beginning."""
        one, another, _ = self.beginnings
        return equal_tokens(self.read(one), self.read(another)) + len(one)

    def one_by_one(self) -> Iterator[tuple[str, Prompt]]:
        """What is asked, in this order."""
        first, another, _ = self.beginnings
        whole = self.read([*first, *self.text])
        others = self._behind(first, 0), self.read([*another, *self.text])
        return zip(ONE_BY_ONE, (whole, whole, *others, whole), strict=True)

    def at_once(self, count: int) -> list[Prompt]:
        """Prompts that share their first half, and end otherwise; the second is the first again, so
        that one may wait for the other's blocks."""
        third = self.beginnings[2]
        ends = [self._behind(third, place) for place in range(max(1, count - 1))]
        return [ends[0], *ends][:count]

    def _behind(self, beginning: Prompt, place: int) -> Prompt:
        """A prompt of the text's first half, and of the other text's, turned by so many tokens."""
        half = len(self.text) // 2
        end = self.other_text[half:]
        return self.read([*beginning, *self.text[:half], *end[place:], *end[:place]])


@dataclass(frozen=True)
class Asked:
    """A prompt and its answer; ``shared`` tokens may lie in the cache, since others began so."""

    way: str
    prompt: list[int]
    answer: CountedAnswer
    shared: int

    @property
    def whole(self) -> tuple[int, ...]:
        return (*self.prompt, *self.answer.token_ids)

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
        self._sent: list[Prompt] = []

    def add(self, prompts: Sequence[Prompt]) -> list[int]:
        """Take prompts that are sent at once: how many first tokens of each are those of another,
        at most."""
        before, self._sent = self._sent, [*self._sent, *prompts]
        return [
            max((equal_tokens(prompt, other) for other in others), default=0)
            for place, prompt in enumerate(prompts)
            for others in [[*before, *prompts[:place], *prompts[place + 1 :]]]
        ]


def repetitions(asked: Sequence[Asked]) -> list[tuple[Asked, Asked]]:
    """Each prompt that was sent more than once, behind its first time, or behind the time when it
    was sent alone."""
    first: dict[tuple[int, ...], Asked] = {}
    ordered = sorted(asked, key=lambda each: each.way != ALONE)
    pairs = [(first.setdefault(tuple(each.prompt), each), each) for each in ordered]
    return [(before, again) for before, again in pairs if before is not again]


def equal_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens of both are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
