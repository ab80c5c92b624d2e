"""Pruning a model in place: weights of its matrices become 0, nothing else changes.

Which matrices: `weight_matrices`. For Wanda the calibration batches run once through the dense
model, and the squares of what each matrix is multiplied with are added up (`feature_norms`): one
vector a layer or expert is kept. The paper's code prunes block by block and measures each block
behind those pruned before it; here all norms are those of the dense model. A matrix that no
calibration token reaches has no norms: Wanda leaves it as it is, and the report names it.

A pruned model is stored as densely as before: the bytes stay, the zeros are for hardware or a
format (`sparse_storage`) that uses them.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..quantization.checks import naming
from ..weight_matrices import DEFAULT_SKIP, WeightMatrix, select_weight_matrices
from .feature_norms import collect_feature_norms
from .masks import (
    check_pattern,
    check_sparsity,
    global_masks,
    magnitude_scores,
    n_m_mask,
    unstructured_mask,
)
from .training import apply_masks
from .wanda import wanda_scores

METHODS = ("magnitude", "wanda")
SCOPES = ("tensor", "row", "global")


@dataclass(frozen=True, eq=False)
class PruningReport:
    """What `prune_model` did. ``masks`` (True = kept) are by parameter name, for `training`."""

    method: str
    target: str  # "sparsity 0.5 per row", "2:4"
    masks: dict[str, Tensor]
    skipped: Mapping[str, str]  # other parameters of two or more axes, with the reason
    weights: int  # of the pruned matrices, shared ones counted once
    zeros: int  # of those

    @property
    def sparsity(self) -> float:
        """The share of zeros in the pruned matrices."""
        return self.zeros / self.weights

    def __str__(self) -> str:
        return (
            f"{self.method}, {self.target}: {len(self.masks)} matrices, {len(self.skipped)} "
            f"skipped, {self.zeros} of {self.weights} weights are 0 ({self.sparsity:.4f}); "
            "stored densely"
        )


def prune_model(
    model: nn.Module,
    *,
    sparsity: float | None = None,
    pattern: tuple[int, int] | None = None,
    method: str = "magnitude",
    scope: str | None = None,
    calibration: Iterable[Tensor | Mapping[str, Tensor]] | None = None,
    skip: Iterable[str] = DEFAULT_SKIP,
) -> PruningReport:
    """Sets weights of the model's matrices to 0, in place.

    Args:
        model: any module, for instance a transformers model. For Wanda it is run in eval mode.
        sparsity: the share of weights to remove, or
        pattern: (N, M): N of each M neighbours along the input axis stay.
        method: "magnitude" or "wanda".
        scope: among which weights a sparsity is ranked: "tensor" (magnitude's default), "row"
            (Wanda's, and its only one), or "global", all matrices together.
        calibration: for Wanda: batches for the model's forward, token ids [B, T] or a mapping with
            ``input_ids`` and, where rows are padded, ``attention_mask`` [B, T].
        skip: as in `select_weight_matrices`; tied layers are never pruned.

    Raises:
        ValueError: an argument is out of range or contradicts another, a layer cannot be pruned so
            (it is named), or no calibration token reached any. The model is as it was.
    """
    scope, target = _plan(sparsity, pattern, method, scope)
    selection = select_weight_matrices(model, skip)
    undivided = {} if pattern is None else _undivided(selection.chosen, pattern[1])
    chosen = {name: m for name, m in selection.chosen.items() if name not in undivided}
    scores, unreached = _scores(model, chosen or selection.chosen, method, calibration)
    if scope == "global":
        assert sparsity is not None
        masks = global_masks(scores, sparsity)
    else:
        masks = {}
        for name in list(scores):
            # Popped: Wanda's float64 scores would otherwise be kept for the whole model.
            with naming(name):
                masks[name] = _mask(scores.pop(name), sparsity, pattern, scope)
    named, first = {}, _first_names(chosen)
    for matrix in chosen.values():
        mask = masks.get(first[id(matrix.parameter)])
        if mask is not None:
            named[matrix.key] = matrix.layout.stored(mask)
    apply_masks(model, named)
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    weights = sum(mask.numel() for mask in masks.values())
    skipped = selection.skipped | undivided | unreached
    return PruningReport(method, target, named, skipped, weights, zeros)


def _plan(
    sparsity: float | None, pattern: tuple[int, int] | None, method: str, scope: str | None
) -> tuple[str, str]:
    """The scope, and the target in words."""
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; give one of {', '.join(METHODS)}")
    if (sparsity is None) == (pattern is None):
        raise ValueError(f"sparsity is {sparsity} and pattern {pattern}; give one of the two")
    if pattern is not None:
        if scope is not None:
            raise ValueError(f"scope {scope!r} has no meaning for a pattern; leave it out")
        return "group", "{}:{}".format(*check_pattern(pattern))
    assert sparsity is not None
    check_sparsity(sparsity)
    scope = scope or ("row" if method == "wanda" else "tensor")
    if scope not in SCOPES:
        raise ValueError(f"scope is {scope!r}; give one of {', '.join(SCOPES)}")
    if method == "wanda" and scope != "row":
        raise ValueError(f"scope is {scope!r}; Wanda ranks within rows, give 'row'")
    place = "over all layers" if scope == "global" else f"per {scope}"
    return scope, f"sparsity {sparsity} {place}"


def _scores(
    model: nn.Module,
    matrices: Mapping[str, WeightMatrix],
    method: str,
    calibration: Iterable[Tensor | Mapping[str, Tensor]] | None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Scores of each distinct weight by its first name, and matrices that have none, with why."""
    if (method == "wanda") != (calibration is not None):
        raise ValueError("calibration batches go with method 'wanda', and with no other")
    scores: dict[str, Tensor] = {}
    if calibration is None:
        for name in _first_names(matrices).values():
            with naming(name):
                scores[name] = magnitude_scores(matrices[name].weight)
        return scores, {}
    norms = collect_feature_norms(model, matrices, calibration)
    unreached = dict.fromkeys(matrices.keys() - norms.keys(), "no calibration token reached it")
    if not norms:
        raise ValueError(f"no calibration token reached any of {', '.join(sorted(unreached))}")
    for name in _first_names(matrices).values():
        if name in norms:
            with naming(name):
                scores[name] = _wanda_scores(matrices[name].weight, norms[name])
    return scores, unreached


def _undivided(matrices: Mapping[str, WeightMatrix], group: int) -> dict[str, str]:
    return {
        name: f"{matrix.in_features} inputs, which groups of {group} do not divide"
        for name, matrix in matrices.items()
        if matrix.in_features % group
    }


def _wanda_scores(weight: Tensor, norms: Tensor) -> Tensor:
    if weight.ndim == 2:
        return wanda_scores(weight, norms)
    experts = [wanda_scores(*pair) for pair in zip(weight, norms, strict=True)]
    return torch.stack(experts)


def _first_names(matrices: Mapping[str, WeightMatrix]) -> dict[int, str]:
    """The first name of each distinct weight, by the parameter's id."""
    names: dict[int, str] = {}
    for name, matrix in matrices.items():
        names.setdefault(id(matrix.parameter), name)
    return names


def _mask(
    scores: Tensor, sparsity: float | None, pattern: tuple[int, int] | None, scope: str
) -> Tensor:
    if pattern is not None:
        return n_m_mask(scores, pattern)
    assert sparsity is not None
    return unstructured_mask(scores, sparsity, per_row=scope == "row")
