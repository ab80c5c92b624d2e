"""How each axis asks: what stays, what is done otherwise, and what proves that it was.

An axis asks side a the usual way, asks it the same way again (the control arm), and asks side b
the other way. With one side, a and b are the same.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..errors import AxisNotExercisedError
from .answers import Answer, Prompt, answer_of, most_together
from .sides import CACHE_DTYPE, COMPILED, VERSION, Side

_PARTS = (2, 3, 5)  # a prompt's chunks: most lengths are a multiple of none of these


@dataclass(frozen=True)
class Trial:
    """The sides, and how many requests the axis of the hundredth makes."""

    a: Side
    b: Side
    requests: int
    seed: int = 0

    @property
    def one_side(self) -> bool:
        return self.a is self.b


class Axis(ABC):
    """One axis. ``usual`` and ``other`` name its two ways; ``same_shapes`` says that both compute
    passes of the same shapes, so that no bit may differ."""

    name: str
    usual: str
    other: str
    same_shapes = False

    def base(self, trial: Trial, prompt: Prompt) -> Answer:
        """The answer the usual way."""
        return answer_of(trial.a.answer(prompt))

    def again(self, trial: Trial, prompt: Prompt) -> Answer | None:
        """The same once more, for the control arm; None where that cannot be had."""
        return self.base(trial, prompt)

    @abstractmethod
    def varied(self, trial: Trial, prompts: Sequence[Prompt]) -> list[list[Answer]]:
        """All answers the other way to each prompt."""

    @abstractmethod
    def proof(
        self, trial: Trial, base: Sequence[Answer], varied: Sequence[Sequence[Answer]]
    ) -> str:
        """What shows that the axis was exercised; AxisNotExercisedError where nothing does."""

    def refused(self, why: str, remedy: str) -> AxisNotExercisedError:
        return AxisNotExercisedError(f"axis {self.name!r} was not exercised: {why}; {remedy}")


class Warmth(Axis):
    """Prompts whose beginning is cached. All are asked cold before any is asked warm, and each warm
    one comes behind the others, whose blocks it must not be given."""

    name, usual, other = "cold/warm", "cold", "warm"

    def base(self, trial: Trial, prompt: Prompt) -> Answer:
        if trial.a.flush is not None:
            trial.a.flush()
        return super().base(trial, prompt)

    def again(self, trial: Trial, prompt: Prompt) -> Answer | None:
        # No prompt is new twice: without a way to empty the cache it would be warm.
        return self.base(trial, prompt) if trial.a.flush else None

    def varied(self, trial: Trial, prompts: Sequence[Prompt]) -> list[list[Answer]]:
        for prompt in prompts:
            answer_of(trial.b.answer(prompt))
        return [[answer_of(trial.b.answer(prompt))] for prompt in prompts]

    def proof(
        self, trial: Trial, base: Sequence[Answer], varied: Sequence[Sequence[Answer]]
    ) -> str:
        told = [answer.cached_tokens for answers in varied for answer in answers]
        cold = sum(answer.cached_tokens or 0 for answer in base)
        warm = sum(tokens or 0 for tokens in told)
        if not warm:
            known = any(tokens is not None for tokens in told)
            raise self.refused(
                "no cached tokens were reported" if not known else "0 tokens came from a cache",
                "switch the prefix cache and its report on, or return Answer(cached_tokens=…)",
            )
        if 2 * cold > warm:
            raise self.refused(
                f"{cold} cached tokens were reported of cold prompts, {warm} of warm ones",
                "give a Side with flush, or prompts that nobody has asked before",
            )
        return f"{warm} tokens came from the cache"


class Company(Axis):
    """Prompts alone, and each among others in two batches of other neighbours."""

    name, usual, other = "alone/batched", "alone", "batched"

    def varied(self, trial: Trial, prompts: Sequence[Prompt]) -> list[list[Answer]]:
        draw = random.Random(trial.seed)
        found: list[list[Answer]] = [[] for _ in prompts]
        for _ in range(2):
            order = draw.sample(range(len(prompts)), len(prompts))
            answers = _together(trial.b, [prompts[index] for index in order])
            for index, answer in zip(order, answers, strict=True):
                found[index].append(answer)
        return found

    def proof(
        self, trial: Trial, base: Sequence[Answer], varied: Sequence[Sequence[Answer]]
    ) -> str:
        return _seen_together(self, varied)


def _together(side: Side, prompts: Sequence[Prompt]) -> list[Answer]:
    """Several prompts in one call where the side has one, else at the same time."""
    if side.batch is not None:
        return [answer_of(result) for result in side.batch(prompts)]
    return _at_once(side, prompts)


def _at_once(side: Side, prompts: Sequence[Prompt]) -> list[Answer]:
    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(lambda prompt: answer_of(side.answer(prompt)), prompts))


def _seen_together(axis: Axis, varied: Sequence[Sequence[Answer]]) -> str:
    # Answers of one round: those of another come later, and overlap with none of them.
    together = max(most_together(answers) for answers in zip(*varied, strict=True))
    if together < 2:
        raise axis.refused(
            "no two requests were seen together",
            "give a server that streams, a function that yields tokens, or "
            "Answer(together=…) with how many were computed at once",
        )
    return f"up to {together} requests were together"


class Chunks(Axis):
    """Prompts in one pass of the prefill, and in chunks."""

    name, usual, other = "chunked/whole prefill", "whole", "in chunks"

    def varied(self, trial: Trial, prompts: Sequence[Prompt]) -> list[list[Answer]]:
        chunked = trial.b.chunked
        if chunked is None:
            return [[answer_of(trial.b.answer(prompt))] for prompt in prompts]
        return [[answer_of(chunked(p, max(1, len(p) // n))) for n in _PARTS] for p in prompts]

    def proof(
        self, trial: Trial, base: Sequence[Answer], varied: Sequence[Sequence[Answer]]
    ) -> str:
        passes = max(answer.passes or 0 for answers in varied for answer in answers)
        if passes < 2 or any((answer.passes or 1) > 1 for answer in base):
            raise self.refused(
                "no prefill was seen in two passes or more against one in a single pass",
                "give a Side with chunked, or return Answer(passes=…)",
            )
        return f"prefills took up to {passes} passes"


class Concurrency(Axis):
    """Prompts one after the other, and all at once."""

    name, usual, other = "concurrent/serial", "serial", "concurrent"
    _rounds = 2

    def varied(self, trial: Trial, prompts: Sequence[Prompt]) -> list[list[Answer]]:
        rounds = [_at_once(trial.b, prompts) for _ in range(self._rounds)]
        return [list(answers) for answers in zip(*rounds, strict=True)]

    def proof(
        self, trial: Trial, base: Sequence[Answer], varied: Sequence[Sequence[Answer]]
    ) -> str:
        return _seen_together(self, varied)


class Age(Axis):
    """First requests, and all up to the hundredth: the same prompts, again and again."""

    name, usual, other = "first/hundredth request", "first", "later"
    same_shapes = True

    def varied(self, trial: Trial, prompts: Sequence[Prompt]) -> list[list[Answer]]:
        rounds = -(-trial.requests // len(prompts))
        found: list[list[Answer]] = [[] for _ in prompts]
        for _ in range(rounds):
            for answers, prompt in zip(found, prompts, strict=True):
                answers.append(answer_of(trial.b.answer(prompt)))
        return found

    def proof(
        self, trial: Trial, base: Sequence[Answer], varied: Sequence[Sequence[Answer]]
    ) -> str:
        later = sum(map(len, varied))
        if later <= len(base):
            raise self.refused(
                f"{later} requests came behind the first {len(base)}", "raise requests"
            )
        return f"{later} requests came behind the first"


class Setting(Axis):
    """Two sides that run with another setting."""

    def __init__(self, name: str, usual: str, other: str) -> None:
        self.name, self.usual, self.other = name, usual, other

    def varied(self, trial: Trial, prompts: Sequence[Prompt]) -> list[list[Answer]]:
        return [[answer_of(trial.b.answer(prompt))] for prompt in prompts]

    def proof(
        self, trial: Trial, base: Sequence[Answer], varied: Sequence[Sequence[Answer]]
    ) -> str:
        a, b = (side.settings.get(self.name, "") for side in (trial.a, trial.b))
        if not a or not b or a == b:
            raise self.refused(
                f"side a runs with {a or 'nothing known'}, side b with {b or 'nothing known'}",
                f"give a Side with settings={{{self.name!r}: …}}",
            )
        return f"{a} against {b}"


class Compilation(Setting):
    """A compiled model against its own code, or against another side."""

    def base(self, trial: Trial, prompt: Prompt) -> Answer:
        own: Callable[[Prompt], object] | None = trial.a.uncompiled if trial.one_side else None
        if trial.one_side and (own is None or trial.a.settings.get(self.name) != "compiled"):
            raise self.refused("nothing is compiled", "give two sides, or a compiled engine")
        return super().base(trial, prompt) if own is None else answer_of(own(prompt))

    def proof(
        self, trial: Trial, base: Sequence[Answer], varied: Sequence[Sequence[Answer]]
    ) -> str:
        if trial.one_side:
            return "compiled against the model's own code"
        return super().proof(trial, base, varied)


AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Warmth(),
        Company(),
        Chunks(),
        Concurrency(),
        Age(),
        Setting(CACHE_DTYPE, "side a's cache", "side b's cache"),
        Compilation(COMPILED, "eager", "compiled"),
        Setting(VERSION, "side a", "side b"),
    )
}
