"""The suite for pruners: masks, whole slices, and training with masks."""

from .protocol import MakePruner, MaskKeeper, Pruner, StructuredPruner
from .pruner import PruningSuite

__all__ = ["MakePruner", "MaskKeeper", "Pruner", "PruningSuite", "StructuredPruner"]
