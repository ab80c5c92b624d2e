"""The checkpoint on disk against the engine that was loaded from it: whose weights are at fault?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open

from ..engines.files.checkpoints import check_checkpoint
from ..engines.files.sources import locate
from ..release import ModelSource
from .subjects import OpenEngine

__all__ = ["ArtifactComparison", "compare_with_artifact"]

_NAMED = 3  # tensors that a sentence names


@dataclass(frozen=True)
class ArtifactComparison:
    """How many tensors of the checkpoint the engine keeps under their names, and which differ."""

    compared: int
    differing: tuple[str, ...]

    @property
    def sentences(self) -> list[str]:
        """Whether loading has changed the weights."""
        if not self.compared:
            return []
        if not self.differing:
            return [
                f"artifact against engine: all {self.compared} tensors compared are loaded as the "
                "checkpoint holds them: loading has changed no weight"
            ]
        named = ", ".join(self.differing[:_NAMED])
        return [
            f"artifact against engine: {len(self.differing)} of {self.compared} tensors are not "
            f"what the checkpoint holds, so loading has changed them: {named}"
        ]

    @property
    def figures(self) -> dict[str, Any]:
        return {"compared": self.compared, "differing": list(self.differing)}


def compare_with_artifact(source: ModelSource, engine: OpenEngine) -> ArtifactComparison:
    """Bit for bit, each tensor of the checkpoint in the dtype in which the engine keeps it.

    Names that only one of both has are left out; of a GGUF file nothing is compared. Raises
    ModelLoadError for files that cannot be read.
    """
    files = locate(source)
    if files.gguf_file is not None:
        return ArtifactComparison(0, ())
    kept, compared, differing = engine.module.state_dict(), 0, list[str]()
    for path in check_checkpoint(files.directory):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  it is no dictionary
                own = kept.get(name)
                if type(own) is not torch.Tensor or not own.is_floating_point():
                    continue
                stored = tensors.get_tensor(name)
                if stored.shape == own.shape:
                    compared += 1
                    if not torch.equal(stored.to(own.dtype), own.cpu()):
                        differing.append(name)
    return ArtifactComparison(compared, tuple(differing))
