"""Where a pass through the KV cache parts from the plain pass: step, position, layer, module.

Outputs of every module are compared position by position, the prompt's first part at once and the
rest token by token. The control is the reference's weights in the candidate's dtype on the same two
ways: what they differ by at their worst position is rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..engines.base import CachedEngine, able
from ..measure import OUTPUT_FACTOR
from ..measure.module_calls import first_tensor, watched
from .output_error import rows_of
from .subjects import OpenEngine, Subjects

__all__ = ["DecodingDiagnosis", "Divergence", "OpenCachedEngine"]


class OpenCachedEngine(OpenEngine, CachedEngine, Protocol):
    """An engine with modules and a cache to drive."""


Outputs = dict[str, torch.Tensor]  # by module, in the order of computing: [T, features]


@dataclass(frozen=True)
class Divergence:
    """The first position at which a module's output parts from the plain pass's.

    ``step`` is 0 for what came with the first pass; ``after_siblings`` says that modules beside it
    in the same block were computed before, and agree.
    """

    position: int
    step: int
    module: str
    error: float
    floor: float
    after_siblings: bool

    @property
    def block(self) -> str:
        """The module that it lies in."""
        return self.module.rpartition(".")[0] or "the model"


class DecodingDiagnosis:
    """``first`` is where the candidate's texts part first, the earliest step of all; None where
    both ways agree up to rounding."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        found = []
        for index, text in enumerate(subjects.texts):
            if index and subjects.deadline.passed:
                break
            found.append(self._of_text(text))
        self.first = min((f for f in found if f), key=lambda f: f.step, default=None)

    def _of_text(self, text: Sequence[int]) -> Divergence | None:
        subjects, prefill = self._subjects, max(1, len(text) // 4)
        errors = _differences(able(subjects.candidate, OpenCachedEngine), text, prefill)
        control = _differences(able(subjects.plain, OpenCachedEngine), text, prefill)
        least = torch.finfo(subjects.dtype).eps
        floors = {
            name: max(float(control[name].max()) if name in control else 0.0, least)
            for name in errors
        }
        for position in range(len(text)):
            for name, error in errors.items():
                if float(error[position]) > OUTPUT_FACTOR * floors[name]:
                    block = name.rpartition(".")[0]
                    before = list(errors)[: list(errors).index(name)]
                    return Divergence(
                        position,
                        max(0, position - prefill + 1),
                        name,
                        float(error[position]),
                        floors[name],
                        any(other.rpartition(".")[0] == block for other in before),
                    )
        return None

    @property
    def sentences(self) -> list[str]:
        """Step, position, layer and module, and whether attention or the cache is at fault."""
        first = self.first
        if first is None:
            return ["no module parts from the plain pass, token by token, by more than rounding"]
        layer = self._subjects.layer_of(first.module)
        where = "" if layer is None else f", in layer {layer}"
        found = [
            f"first divergent step: step {first.step}, position {first.position}, at "
            f"{first.module}{where} (error {100 * first.error:.3g} % of its output, rounding "
            f"{100 * first.floor:.2g} %)"
        ]
        if first.after_siblings:
            found.append(
                f"the modules before it in {first.block} agree: what differs is what the cache has "
                "kept or hands out there, its mask, or its positions"
            )
        else:
            found.append(f"nothing before it differs: {first.module} itself depends on the way")
        return found

    @property
    def figures(self) -> dict[str, Any]:
        """What was found, as data."""
        first = self.first
        return {
            "step": None if first is None else first.step,
            "position": None if first is None else first.position,
            "module": None if first is None else first.module,
            "block": None if first is None else first.block,
        }


@torch.no_grad()
def _differences(
    engine: OpenCachedEngine, text: Sequence[int], prefill: int
) -> dict[str, torch.Tensor]:
    """The error of each module at each position [T], relative to the plain pass's output there."""
    plain = _outputs(engine, lambda: engine.full_logits(text))
    cached = _outputs(engine, lambda: engine.cached_logits(text, prefill))
    found = {}
    for name, expected in plain.items():
        rows = cached.get(name)
        if rows is not None and rows.shape == expected.shape and len(rows) == len(text):
            error = (rows - expected).norm(dim=-1)
            found[name] = error / expected.norm(dim=-1).clamp(min=torch.finfo(error.dtype).tiny)
    return found


def _outputs(engine: OpenCachedEngine, compute: Callable[[], Any]) -> Outputs:
    parts: dict[str, list[torch.Tensor]] = {}

    def keep(name: str, args: Any, keywords: Any, output: Any) -> None:
        if (tensor := first_tensor(output)) is not None:
            parts.setdefault(name, []).append(rows_of(tensor).float().cpu())

    with watched(dict(engine.module.named_modules()), keep):
        compute()
    return {
        name: torch.cat(rows)
        for name, rows in parts.items()
        if len({part.shape[-1] for part in rows}) == 1
    }
