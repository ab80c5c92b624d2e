"""Prompts of one length, with what the reference's weights make of them in other dtypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


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
