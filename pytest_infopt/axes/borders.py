"""Border inputs: prompts behind which two tokens are nearly tied.

There another model turns the greedy token over about every second time, and rounding must not: an
input on which the control turns it over as often tells nothing. So what rounding changes of a gap
is measured first, and the closest gaps are taken that exceed it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .answers import Prompt, answer_of, gaps
from .sides import Side

__all__ = ["border_prompts"]

_BEYOND = 3.0  # standard deviations of what rounding changes: of normal changes, 0.3 % are larger
_MOST = 64
_SHARE = 8  # one in so many beginnings of prompts


def border_prompts(
    side: Side, control: Side, prompts: Sequence[Prompt], most: int = _MOST
) -> list[Prompt]:
    """The inputs with the closest choices that rounding leaves alone, those first: up to ``most``
    beginnings of the prompts where ``side`` gives the logits of every position, else half of the
    prompts; all where it tells no gaps."""
    own, again = (_inputs(each, prompts) for each in (side, control))
    if len(own) < len(prompts):
        return list(prompts)
    changes = [one - other for (_, one), (_, other) in zip(own, again, strict=False)]
    noise = math.sqrt(sum(change**2 for change in changes) / max(1, len(changes)))
    closest = sorted(own, key=lambda each: (each[1] <= _BEYOND * noise, each[1]))
    count = max(1, len(prompts) // 2, min(most, len(own) // _SHARE))
    return [prompt for prompt, _ in closest[:count]]


def _inputs(side: Side, prompts: Sequence[Prompt]) -> list[tuple[Prompt, float]]:
    """Each input with the gap (nats) behind it, where the side tells it."""
    found: list[tuple[Prompt, float]] = []
    for prompt in prompts:
        answer = answer_of(side.answer(prompt))
        told = gaps(answer)
        if not isinstance(prompt, str) and answer.logits is not None and len(told) == len(prompt):
            found += [(prompt[: place + 1], gap) for place, gap in enumerate(told)]
        elif told:
            found.append((prompt, told[0] if answer.logits is None else told[-1]))
    return found
