"""Faults of normalisation layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from .changes import Changes
from .fault import Draw, Planned, kind
from .parts import NotApplicableError


def _epsilon(module: nn.Module) -> str:
    for name in ("variance_epsilon", "eps"):
        if hasattr(module, name):
            return name
    raise NotApplicableError(f"{type(module).__name__} has no epsilon")


@kind()
def norm_epsilon(draw: Draw) -> Planned:
    """A norm's epsilon is another one."""
    name = draw.choice("module", draw.parts.norms)
    module = draw.parts.modules[name]
    epsilon = draw.choice("epsilon", (1e-3, 1e-4))
    known = _epsilon(module)
    sentence = f"the epsilon of {name} is {epsilon} in place of {getattr(module, known)}"
    return sentence, [name], lambda changes: changes.attribute(module, known, epsilon)


@kind()
def all_norm_epsilons(draw: Draw) -> Planned:
    """Every norm has another epsilon."""
    epsilon = draw.choice("epsilon", (1e-3, 1e-4))
    names = draw.parts.norms

    def plant(changes: Changes) -> None:
        for name in names:
            module = draw.parts.modules[name]
            changes.attribute(module, _epsilon(module), epsilon)

    return f"the epsilon of every norm is {epsilon}", names, plant


@kind()
def norm_convention(draw: Draw) -> Planned:
    """A norm multiplies by its weight + 1, or no longer does."""
    name = draw.choice("module", draw.parts.norms)
    module = draw.parts.modules[name]
    adds = "Gemma" in type(module).__name__  # its own convention
    step = -1.0 if adds else 1.0

    def plant(changes: Changes) -> None:
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        changes.assign(weight.data, weight.data + step)

    return f"{name} multiplies by its weight {'+' if step > 0 else '−'} 1", [name], plant


@kind()
def norm_missing(draw: Draw) -> Planned:
    """A norm is left out."""
    name = draw.choice("module", draw.parts.norms)
    module = draw.parts.modules[name]

    def around(forward: Any, hidden: Any, *args: Any, **kwargs: Any) -> Any:
        return hidden

    return f"{name} is left out", [name], lambda changes: changes.forward(module, around)


@kind()
def norm_weight_missing(draw: Draw) -> Planned:
    """A norm's weight is not applied."""
    name = draw.choice("module", draw.parts.norms)
    module = draw.parts.modules[name]
    neutral = 0.0 if "Gemma" in type(module).__name__ else 1.0

    def plant(changes: Changes) -> None:
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        changes.assign(weight.data, neutral)

    return f"the weight of {name} is not applied", [name], plant
