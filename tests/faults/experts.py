"""Faults of mixtures of experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .fault import Draw, Planned, kind

_EXPERTS, _ROUTER = r".*experts", r"mlp\.(gate|router)|block_sparse_moe\.gate"


def _experts(draw: Draw) -> tuple[str, Any, int]:
    name, module = draw.module(_EXPERTS)
    weight = draw.parts.needed("stacked experts", [getattr(module, "down_proj", None)])[0]
    return name, module, int(weight.shape[0])


@kind()
def expert_dead(draw: Draw) -> Planned:
    """An expert's output is nothing."""
    name, module, count = _experts(draw)
    expert = draw.choice("expert", range(count))

    def change(weight: Tensor) -> Tensor:
        weight[expert] = 0
        return weight

    sentence = f"expert {expert} of {name} is dead"
    return sentence, [name], lambda changes: changes.weight(module, change, "down_proj")


@kind()
def experts_swapped(draw: Draw) -> Planned:
    """Two experts are swapped, and the router does not know."""
    name, module, count = _experts(draw)
    one, other = draw.two("expert", count)

    def change(weight: Tensor) -> Tensor:
        weight[[one, other]] = weight[[other, one]]
        return weight

    def plant(changes: Any) -> None:
        for weight in ("gate_up_proj", "down_proj"):
            changes.weight(module, change, weight)

    return f"experts {one} and {other} of {name} are swapped", [name], plant


@kind()
def expert_scaled(draw: Draw) -> Planned:
    """An expert is a few per cent too large or too small."""
    name, module, count = _experts(draw)
    expert = draw.choice("expert", range(count))
    factor = draw.choice("factor", (1.05, 0.95))

    def change(weight: Tensor) -> Tensor:
        weight[expert] *= factor
        return weight

    sentence = f"expert {expert} of {name} × {factor}"
    return sentence, [name], lambda changes: changes.weight(module, change, "down_proj")


@kind()
def expert_halves_swapped(draw: Draw) -> Planned:
    """Gate and up projection of the experts are swapped."""
    name, module, _ = _experts(draw)

    def change(weight: Tensor) -> Tensor:
        return torch.cat(list(reversed(weight.chunk(2, dim=1))), dim=1)

    sentence = f"gate and up of {name} are swapped"
    return sentence, [name], lambda changes: changes.weight(module, change, "gate_up_proj")


@kind()
def router_biased(draw: Draw) -> Planned:
    """The router prefers an expert more than it should."""
    name, module = draw.module(_ROUTER)
    weight: Tensor = draw.parts.needed("router's weight", [getattr(module, "weight", None)])[0]
    expert = draw.choice("expert", range(len(weight)))
    factor = draw.choice("factor", (1.5, 0.5))

    def change(rows: Tensor) -> Tensor:
        rows[expert] *= factor
        return rows

    sentence = f"expert {expert} of {name} is chosen by × {factor}"
    return sentence, [name], lambda changes: changes.weight(module, change)
