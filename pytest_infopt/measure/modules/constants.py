"""Numbers that a module computes with beside its weights: its buffers and attributes.

A rotary base that is off by one part in ten thousand changes no output of a 16-bit model beyond its
rounding, but its frequencies are kept in float32, and there it shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..paired_modules import ModulePair

# Sizes: vocabularies may be padded, tables may have grown, and other shapes refuse to compute.
_SIZES = ("features", "embeddings", "vocab", "cached", "hidden_size", "padding_idx", "numel")
_LEFT_BEHIND = ("states",)  # by the last pass (RecurrentGemma)


@dataclass(frozen=True)
class DifferentConstant:
    """A module's constant, what it is in both models, by what share the worst entry is off."""

    module: str
    name: str
    reference: str
    candidate: str
    error: float

    def __str__(self) -> str:
        where = f"{self.module}.{self.name}".lstrip(".")
        return f"{where} is {self.candidate}, the reference's {self.reference}"


def different_constants(pairs: Iterable[ModulePair]) -> list[DifferentConstant]:
    """Every constant that both partners have and that differs by more than its dtype's rounding."""
    return [found for pair in pairs for found in _of_pair(pair)]


def _of_pair(pair: ModulePair) -> Iterator[DifferentConstant]:
    ours, theirs = _constants(pair.reference), _constants(pair.candidate)
    for name in ours.keys() & theirs.keys():
        a, b = ours[name], theirs[name]
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            if a.shape == b.shape and (error := _tensor_error(a, b)):
                worst = int((a.double() - b.double().to(a.device)).abs().argmax())
                yield DifferentConstant(
                    pair.name,
                    name,
                    f"{float(a.flatten()[worst]):.9g} at entry {worst}",
                    f"{float(b.flatten()[worst]):.9g}",
                    error,
                )
            continue
        if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
            continue
        if error := _number_error(a, b):
            yield DifferentConstant(pair.name, name, repr(a), repr(b), error)


def _constants(module: nn.Module) -> dict[str, Any]:
    """Buffers, tensors and numbers that a module holds itself."""
    found: dict[str, Any] = {n: b for n, b in module._buffers.items() if b is not None}
    for name, value in vars(module).items():
        if name.startswith("_") or any(part in name for part in _SIZES + _LEFT_BEHIND):
            continue
        if name == "training":
            value = value and _drops(module)  # without dropout, the mode changes nothing
        if isinstance(value, (bool, int, float, torch.Tensor)) or value is None:
            found[name] = value
    return found


def _drops(module: nn.Module) -> bool:
    """Whether a module drops something out in training."""
    rates = [v for n, v in vars(module).items() if "dropout" in n or n == "p"]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def _tensor_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """The worst entry's relative difference; 0 where it is the coarser dtype's rounding."""
    a, b = a.detach(), b.detach().to(a.device)
    eps = max((torch.finfo(t.dtype).eps for t in (a, b) if t.is_floating_point()), default=0.0)
    error = (a.double() - b.double()).abs()
    error = torch.where(a.double() == b.double(), torch.zeros_like(error), error)
    relative = error / a.double().abs().clamp(min=1e-300)
    worst = float(relative.max()) if relative.numel() else 0.0
    return worst if worst > eps else 0.0


def _number_error(a: Any, b: Any) -> float:
    if a is None or b is None or isinstance(a, bool) or isinstance(b, bool):
        return 0.0 if a is b or a == b else float("inf")
    error = abs(a - b)
    return error / (abs(a) or 1.0) if error > torch.finfo(torch.float32).eps * abs(a) else 0.0
