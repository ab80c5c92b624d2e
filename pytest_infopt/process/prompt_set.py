"""Prompts of one length, with what the reference's weights make of them in other dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

CHOSEN_FROM = 4  # times as many prompts as are chosen
Prompt = TypeVar("Prompt")


class PromptPlan(Protocol):
    """How many prompts, of how many tokens, and the oracle's dtype ("auto": the widest that
    fits). Hashable."""

    @property
    def prompts(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    @property
    def oracle(self) -> str: ...


@dataclass(frozen=True)
class PromptSet:
    """Token ids, and logits [T, V] of each prompt in float64.

    ``oracle`` has those of the reference's weights in the oracle's dtype, ``plain`` those of its
    weights in the candidate's dtype, which show what that dtype costs.
    """

    prompts: list[list[int]]
    oracle: list[torch.Tensor]
    plain: list[torch.Tensor]


def closest_choice(logits: torch.Tensor) -> float:
    """The smallest gap between the two largest logits of a row of [T, V]."""
    best = logits.double().topk(2, -1).values
    return float((best[:, 0] - best[:, 1]).min())


def by_gap(prompts: Sequence[Prompt], gaps: Sequence[float], count: int) -> list[Prompt]:
    """``count`` prompts by how close their greedy choices are: in turn one without a near-tie,
    whose tokens must come out equal, and one with the closest, which the least error turns over.

    Prompts at odd places are of another kind (chats), and are chosen for odd places.
    """
    left = sorted(range(len(prompts)), key=lambda index: (gaps[index], index))
    chosen = []
    for place in range(count):
        kind = [index for index in left if index % 2 == place % 2] or left
        closest = (place + place // 2) % 2 == 1
        index = kind[0] if closest else kind[-1]
        left.remove(index)
        chosen.append(prompts[index])
    return chosen
