"""What an optimisation really did to a model's weights: the candidate's beside the reference's.

The weights are those of the reference's matrices that can be quantized or pruned
(`infopt_reference.weight_matrices`), whatever the candidate's loader made of them. A matrix is as
it was where the candidate holds a float parameter of the same values, but for the rounding to its
own dtype; else it was changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from infopt_reference.weight_matrices import DEFAULT_SKIP, WeightMatrix, select_weight_matrices
from torch import nn

from ..engines.transformers.footprint import storage_bytes, weight_tensors

__all__ = ["DEFAULT_SKIP", "WeightChanges", "bytes_at", "compare_weights"]


@dataclass(frozen=True)
class LeftAlone:
    """What no optimisation takes for a matrix, or the user has named: a layer, or all parameters of
    one class of modules, how many these are, and their weights."""

    kind: str
    count: int
    weights: int

    def __str__(self) -> str:
        return f"{self.kind} ({self.count}; {self.weights:,} weights)"


@dataclass(frozen=True)
class WeightChanges:
    """What became of the weights of the reference's matrices; shared ones count once."""

    weights: int = 0
    changed: int = 0  # of them, in matrices that hold other values, or codes
    zeros: int = 0  # of those kept as plain floats
    nbytes: int = 0  # that the candidate keeps for them
    plain: bool = True  # all are kept as plain floats
    unchanged: dict[str, int] = field(default_factory=dict)  # weights of matrices left as they were
    missing: tuple[str, ...] = ()  # matrices whose module the candidate does not have
    skipped: dict[str, str] = field(default_factory=dict)  # parameters that are no such matrices
    kinds: tuple[LeftAlone, ...] = ()  # the same by kind, the largest first

    def values(self) -> dict[str, float]:
        """The metrics; none where the candidate's modules are not the reference's."""
        if self.missing or not self.weights:
            return {}
        found = {
            "changed_share": self.changed / self.weights,
            "bits_per_weight": 8 * self.nbytes / self.weights,
        }
        return found | ({"sparsity": self.zeros / self.weights} if self.plain else {})

    def notes(self) -> list[str]:
        """What was left as it was although others were changed, in a sentence."""
        if self.missing:
            return [
                f"the candidate has no module for {len(self.missing)} of the reference's matrices, "
                f"{self.missing[0]!r} first: which weights changed is not known"
            ]
        return [*self._unchanged(), *self._skipped()] if self.changed else []

    def _unchanged(self) -> Iterator[str]:
        if self.unchanged:
            largest = max(self.unchanged, key=lambda name: self.unchanged[name])
            left = sum(self.unchanged.values())
            yield (
                f"{left / self.weights:.1%} of the weights were left as they are, in "
                f"{len(self.unchanged)} matrices: {largest!r} is the largest"
            )

    def _skipped(self) -> Iterator[str]:
        if self.kinds:
            yield f"left alone, as no matrices to change: {', '.join(map(str, self.kinds))}"


@torch.no_grad()
def compare_weights(
    reference: nn.Module, candidate: nn.Module, skip: Iterable[str] = DEFAULT_SKIP
) -> WeightChanges:
    """Compares all matrices of the reference but those that ``skip`` names.

    Raises:
        ValueError: ``skip`` names nothing, or no matrix is left.
    """
    selection = select_weight_matrices(reference, skip)
    distinct = {id(m.parameter): m for m in reversed(selection.chosen.values())}
    weights = changed = zeros = nbytes = 0
    plain, unchanged, missing = True, dict[str, int](), list[str]()
    for matrix in reversed(distinct.values()):
        owner = _owner(candidate, matrix)
        if owner is None:
            missing.append(matrix.name)
            continue
        count, kept = matrix.parameter.numel(), _plain_parameter(owner, matrix)
        weights += count
        nbytes += _bytes(owner, matrix)
        if kept is None:
            plain = False
        else:
            zeros += int((kept == 0).sum())
        if kept is not None and _same(matrix.parameter, kept):
            unchanged[matrix.name] = count
        else:
            changed += count
    return WeightChanges(
        weights,
        changed,
        zeros,
        nbytes,
        plain,
        unchanged,
        tuple(missing),
        selection.skipped,
        _kinds(reference, selection.skipped),
    )


def _kinds(model: nn.Module, skipped: Iterable[str]) -> tuple[LeftAlone, ...]:
    found: dict[str, dict[int, int]] = {}  # weights by kind and parameter: shared ones count once
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in skipped:
        if name in parameters:
            owner, parameter = name.rpartition(".")[0], parameters[name]
            kind = type(model.get_submodule(owner)).__name__
        else:  # a layer
            kind, parameter = name, parameters[f"{name}.weight"]
        found.setdefault(kind, {})[id(parameter)] = parameter.numel()
    kinds = [LeftAlone(kind, len(each), sum(each.values())) for kind, each in found.items()]
    return tuple(sorted(kinds, key=lambda each: -each.weights))


def bytes_at(bits: float, model: nn.Module, skip: Iterable[str] = DEFAULT_SKIP) -> int:
    """What a float model's weights would weigh with ``bits`` for each weight of its matrices.

    All else (embeddings, head, norms, convolutions, tables that its checkpoint holds) counts as it
    is stored in the model. Raises ValueError as `compare_weights` does.
    """
    chosen = select_weight_matrices(model, skip).chosen.values()
    distinct = {id(matrix.parameter): matrix.parameter for matrix in chosen}
    matrices: set[tuple[str, int]] = set()
    storage_bytes(distinct.values(), matrices)
    others = storage_bytes(weight_tensors(model), matrices)
    return others + round(bits * sum(p.numel() for p in distinct.values()) / 8)


def _owner(candidate: nn.Module, matrix: WeightMatrix) -> nn.Module | None:
    try:
        return candidate.get_submodule(matrix.path)
    except AttributeError:
        return None


def _plain_parameter(owner: nn.Module, matrix: WeightMatrix) -> torch.Tensor | None:
    """The candidate's parameter, where it is a float of 16 bits or more and no tensor subclass."""
    found = owner._parameters.get(matrix.parameter_name)
    if found is None or type(found) is not nn.Parameter or type(found.data) is not torch.Tensor:
        return None
    wide = found.is_floating_point() and found.element_size() >= 2
    return found if wide and found.shape == matrix.parameter.shape else None


def _same(reference: torch.Tensor, kept: torch.Tensor) -> bool:
    return torch.equal(reference.detach().to(kept.device, kept.dtype), kept)


def _bytes(owner: nn.Module, matrix: WeightMatrix) -> int:
    """What the candidate keeps for a matrix: codes and constants, without the layer's bias."""
    if matrix.is_layer:
        biases = {id(bias) for bias in (owner._parameters.get("bias"),) if bias is not None}
        return storage_bytes(t for t in weight_tensors(owner) if id(t) not in biases)
    named = {**dict(owner.named_parameters()), **dict(owner.named_buffers())}
    name = matrix.parameter_name  # ours keeps gate_up_proj as gate_up_proj_packed.codes, …
    return storage_bytes(
        tensor
        for key, tensor in named.items()
        if key.startswith(name) and not key.startswith(f"{name}_bias")
    )
