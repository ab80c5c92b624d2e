"""Modules that compute from positions, as rotary embeddings do: fed positions far beyond a batch's.

The batch has a few dozen positions, and a model that rounds, clamps or restarts them beyond these
computes the batch rightly. Such modules have no weights and cost nothing, so they are called again
with positions up to the last that the model is made for.

Legend: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..module_calls import copied, first_tensor, mapped, tensors_by_place

_ROUNDING = 2.0**-23  # of an angle, which is computed in float32: a unit in the last place


def last_position(model: nn.Module) -> int:
    """The last that a transformers model is made for; 0 where it does not say."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return max(0, int(getattr(text, "max_position_embeddings", 0) or 0) - 1)


def far_call(module: nn.Module, call: tuple[Any, Any], last: int) -> tuple[Any, Any] | None:
    """The call with positions [B, T] spread up to ``last`` in place of its own; None where the
    module has weights or is given no positions, or these reach as far."""
    if any(True for _ in module.parameters()):
        return None
    given = [t for _, t in tensors_by_place(call) if _counts(t)]
    if not given or max(int(t.max()) for t in given) >= last:
        return None
    # One less than the last: `rounding_of_angles` asks for the next.
    made: tuple[Any, Any] = mapped(call, lambda t: _spread(t, last - 1) if _counts(t) else t)
    return made


def rounding_of_angles(compute: Callable[..., Any], call: tuple[Any, Any]) -> torch.Tensor | None:
    """What one rounding of position · frequency changes in the first output, by differences.

    No constant of the module says what its arithmetic costs: at position 10⁵, a sound rotation is a
    hundredth off in float32.
    """
    args, kwargs = copied(call)  # some add to their positions in place
    here = first_tensor(compute(*args, **kwargs))
    args, kwargs = mapped(call, lambda t: t + 1 if _counts(t) else t)
    there = first_tensor(compute(*args, **kwargs))
    (positions,) = [t for _, t in tensors_by_place(call) if _counts(t)][:1]
    if here is None or there is None or here.shape[:-1] != positions.shape:
        return None
    return (there - here) * positions[..., None] * _ROUNDING


def _counts(tensor: torch.Tensor) -> bool:
    """Whether it may be positions: whole numbers, by row."""
    return tensor.ndim > 1 and not tensor.is_floating_point() and tensor.dtype is not torch.bool


def _spread(positions: torch.Tensor, last: int) -> torch.Tensor:
    """Positions of the same shape: every row begins at 0 and ends at the last, no two alike."""
    steps = torch.linspace(0, last, positions.numel(), device=positions.device)
    return steps.round().to(positions.dtype).reshape(positions.shape)
