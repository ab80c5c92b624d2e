"""What `PruningSuite` talks to: minimal protocols that a thin adapter makes a library fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Pruner(Protocol):
    """Chooses the weights that stay."""

    def mask(
        self,
        weight: Tensor,
        *,
        sparsity: float | None = None,
        pattern: tuple[int, int] | None = None,
        inputs: Tensor | None = None,
    ) -> Tensor:
        """Bool, in the weight's shape, True = kept.

        Either ``sparsity``, the share to remove, or ``pattern`` (N, M): N kept of each M neighbours
        on the last axis. ``inputs`` [..., K], of a weight [M, K], only under "activations".
        """


class StructuredPruner(Pruner, Protocol):
    """Capability "structured"."""

    def structured_mask(self, weight: Tensor, *, sparsity: float, axis: int) -> Tensor:
        """Bool, in the weight's shape: whole slices of ``axis`` are kept or removed."""


class MaskKeeper(Pruner, Protocol):
    """Capability "training"."""

    def keep(
        self, module: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> Any:
        """From now on the named parameters are 0 outside their masks, whatever optimizer does.

        What is returned lives as long as the training. Under "remasking" it may be called again.
        """


class MakePruner(Protocol):
    """The factory that `PruningSuite` asks for."""

    def __call__(self) -> Pruner:
        """A pruner with no memory of others."""
