"""What a diagnosis works with: both models, their paired modules, texts, a time limit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import nn

from ..engines.base import ModuleEngine, WholeLogitsEngine
from ..measure import dtype_named
from ..measure.paired_modules import PairedModules, pair_modules

__all__ = ["Deadline", "OpenEngine", "Subjects"]


class OpenEngine(WholeLogitsEngine, ModuleEngine, Protocol):
    """An engine whose modules can be watched during a pass."""


class Deadline:
    """``seconds`` from now on."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._end


@dataclass(frozen=True)
class Subjects:
    """``plain`` has the reference's weights in the candidate's dtype, and is the reference itself
    where that is the same; ``texts`` are token ids."""

    reference: OpenEngine
    candidate: OpenEngine
    plain: OpenEngine
    texts: Sequence[Sequence[int]]
    deadline: Deadline

    @cached_property
    def paired(self) -> PairedModules:
        return pair_modules(self.reference.module, self.candidate.module)

    @cached_property
    def dtype(self) -> torch.dtype:
        """What the candidate's layers hand each other."""
        return dtype_named(self.candidate.cache_dtype)

    @cached_property
    def layer_names(self) -> list[str]:
        """The decoder's layers: the longest list of modules of the reference, in order."""
        lists = [
            [f"{name}.{key}" if name else key for key in dict(module.named_children())]
            for name, module in self.reference.module.named_modules()
            if isinstance(module, nn.ModuleList)
        ]
        longest = max(lists, key=len, default=[])
        return [name for name in longest if name in self.paired.pairs]

    def layer_of(self, name: str) -> int | None:
        """The number of the layer that a module is, or lies in."""
        for index, layer in enumerate(self.layer_names):
            if name == layer or name.startswith(f"{layer}."):
                return index
        return None
