"""Pruning a model in place: weights of its linear layers become 0, nothing else changes.

Which layers: `linear_layers`. For Wanda the calibration batches run once through the dense model,
with a hook on each layer that adds up the squares of its inputs: one vector a layer is kept. The
paper's code prunes block by block and measures each block behind those pruned before it; here all
norms are those of the dense model.

A pruned model is stored as densely as before: the bytes stay, the zeros are for hardware or a
format (`sparse_storage`) that uses them.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..linear_layers import DEFAULT_SKIP, evaluating, select_linear_layers
from ..quantization.checks import naming
from .masks import (
    check_pattern,
    check_sparsity,
    global_masks,
    magnitude_scores,
    n_m_mask,
    unstructured_mask,
)
from .training import apply_masks
from .wanda import FeatureNorms, wanda_scores

METHODS = ("magnitude", "wanda")
SCOPES = ("tensor", "row", "global")


@dataclass(frozen=True, eq=False)
class PruningReport:
    """What `prune_model` did. ``masks`` (True = kept) are by parameter name, for `training`."""

    method: str
    target: str  # "sparsity 0.5 per row", "2:4"
    masks: dict[str, Tensor]
    skipped: tuple[str, ...]  # linear layers left alone
    weights: int  # of the pruned layers, shared ones counted once
    zeros: int  # of those

    @property
    def sparsity(self) -> float:
        """The share of zeros in the pruned layers."""
        return self.zeros / self.weights

    def __str__(self) -> str:
        return (
            f"{self.method}, {self.target}: {len(self.masks)} layers, {len(self.skipped)} skipped, "
            f"{self.zeros} of {self.weights} weights are 0 ({self.sparsity:.4f}); stored densely"
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
    """Sets weights of the model's `nn.Linear` layers to 0, in place.

    Args:
        model: any module, for instance a transformers model. For Wanda it is run in eval mode.
        sparsity: the share of weights to remove, or
        pattern: (N, M): N of each M neighbours along the input axis stay.
        method: "magnitude" or "wanda".
        scope: among which weights a sparsity is ranked: "tensor" (magnitude's default), "row"
            (Wanda's, and its only one), or "global", all layers together.
        calibration: for Wanda: batches for the model's forward, token ids [B, T] or a mapping with
            ``input_ids`` and, where rows are padded, ``attention_mask`` [B, T].
        skip: as in `select_linear_layers`; tied layers are never pruned.

    Raises:
        ValueError: an argument is out of range or contradicts another, a layer cannot be pruned so
            (it is named), or no calibration token reached a layer. The model is as it was.
    """
    scope, target = _plan(sparsity, pattern, method, scope)
    layers, skipped = select_linear_layers(model, skip)
    scores, names = _scores(model, layers, method, calibration)
    if scope == "global":
        assert sparsity is not None
        masks = global_masks(scores, sparsity)
    else:
        masks = {}
        for name in list(scores):
            # Popped: Wanda's float64 scores would otherwise be kept for the whole model.
            with naming(name):
                masks[name] = _mask(scores.pop(name), sparsity, pattern, scope)
    named = {f"{n}.weight": masks[names[id(layer.weight)]] for n, layer in layers.items()}
    apply_masks(model, named)
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    weights = sum(mask.numel() for mask in masks.values())
    return PruningReport(method, target, named, skipped, weights, zeros)


def collect_feature_norms(
    model: nn.Module,
    layers: Mapping[str, nn.Linear],
    calibration: Iterable[Tensor | Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """‖x_j‖₂ of each layer's inputs, float64 [K] by name, over the batches' unpadded tokens.

    Layers that share a weight share their norms, over the inputs of all of them.

    Raises:
        ValueError: a layer is given values that are not finite, inputs that an attention mask does
            not fit, or no token at all; the layer is named.
    """
    norms = {id(m.weight): FeatureNorms(m.in_features, m.weight.device) for m in layers.values()}
    modules = {module: name for name, module in layers.items()}  # one hook, whatever its names
    mask: Tensor | None = None

    def observe(name: str) -> Any:
        def hook(layer: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
            with naming(name):
                norms[id(layer.weight)].observe(inputs[0], _fit_mask(mask, inputs[0]))

        return hook

    handles = [layer.register_forward_pre_hook(observe(name)) for layer, name in modules.items()]
    try:
        with evaluating(model), torch.no_grad():
            for batch in calibration:
                batch = {"input_ids": batch} if isinstance(batch, Tensor) else dict(batch)
                mask = batch.get("attention_mask")
                model(batch.pop("input_ids"), **batch)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for name, layer in layers.items():
        with naming(name):
            found[name] = norms[id(layer.weight)].norms
    return found


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
    layers: dict[str, nn.Linear],
    method: str,
    calibration: Iterable[Tensor | Mapping[str, Tensor]] | None,
) -> tuple[dict[str, Tensor], dict[int, str]]:
    """Scores of each distinct weight by its first name, and that name by the weight's id."""
    if (method == "wanda") != (calibration is not None):
        raise ValueError("calibration batches go with method 'wanda', and with no other")
    names: dict[int, str] = {}
    for name, layer in layers.items():
        names.setdefault(id(layer.weight), name)
    norms = {} if calibration is None else collect_feature_norms(model, layers, calibration)
    found = {}
    for name in names.values():
        weight = layers[name].weight
        with naming(name):
            found[name] = wanda_scores(weight, norms[name]) if norms else magnitude_scores(weight)
    return found, names


def _mask(
    scores: Tensor, sparsity: float | None, pattern: tuple[int, int] | None, scope: str
) -> Tensor:
    if pattern is not None:
        return n_m_mask(scores, pattern)
    assert sparsity is not None
    return unstructured_mask(scores, sparsity, per_row=scope == "row")


def _fit_mask(mask: Tensor | None, inputs: Tensor) -> Tensor | None:
    # Some modules flatten [B, T, K] to [B·T, K] before their products.
    if mask is not None and inputs.ndim == 2 and mask.numel() == inputs.shape[0]:
        return mask.reshape(-1)
    return mask
