"""The norms of what a model's matrices are multiplied with, over calibration batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..quantization.checks import naming
from ..quantization.expert_inputs import ExpertInputs
from ..weight_matrices import WeightMatrix, evaluating, experts_one_by_one
from .wanda import FeatureNorms


def collect_feature_norms(
    model: nn.Module,
    matrices: Mapping[str, WeightMatrix],
    calibration: Iterable[Tensor | Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """‖x_j‖₂ of each matrix's inputs, float64 [K], by name; for a stack of experts, [E, K].

    Over the batches' unpadded tokens. Matrices that share a weight share their norms, over the
    inputs of all of them. Not in the result: matrices that no token reaches, and, where batches are
    padded, experts, which are given tokens out of order. An expert that no token chose, in a stack
    where others were, has norms of 1: its weights are ranked by magnitude.

    Raises:
        ValueError: a layer is given values that are not finite, or inputs that an attention mask
            does not fit; the layer is named.
    """
    collector = _Collector(matrices)
    stacks = {name: matrix for name, matrix in matrices.items() if not matrix.is_layer}
    handles = [
        module.register_forward_pre_hook(collector.hook(name))
        for module, name in {m.module: n for n, m in matrices.items() if m.is_layer}.items()
    ]
    try:
        with (
            evaluating(model),
            torch.no_grad(),
            experts_one_by_one(model),
            ExpertInputs(stacks, collector.expert),
        ):
            for batch in calibration:
                batch = {"input_ids": batch} if isinstance(batch, Tensor) else dict(batch)
                collector.mask = batch.get("attention_mask")
                model(batch.pop("input_ids"), **batch)
    finally:
        for handle in handles:
            handle.remove()
    return collector.norms()


class _Collector:
    def __init__(self, matrices: Mapping[str, WeightMatrix]) -> None:
        self.mask: Tensor | None = None
        self._matrices = matrices
        self._layers: dict[int, FeatureNorms] = {}  # by parameter
        self._experts: dict[int, dict[int, FeatureNorms]] = {}
        self._padded = False

    def hook(self, name: str) -> Any:
        matrix = self._matrices[name]
        norms = self._layers.setdefault(id(matrix.parameter), self._new(matrix))

        def observe(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            with naming(name):
                norms.observe(inputs[0], self._fitted(inputs[0]))

        return observe

    def expert(self, name: str, expert: int, inputs: Tensor) -> None:
        self._padded |= self.mask is not None and not bool(self.mask.all())
        matrix = self._matrices[name]
        experts = self._experts.setdefault(id(matrix.parameter), {})
        if expert not in experts:
            experts[expert] = self._new(matrix)
        with naming(f"{name}[{expert}]"):
            experts[expert].observe(inputs)

    def norms(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, matrix in self._matrices.items():
            layer = self._layers.get(id(matrix.parameter))
            experts = self._experts.get(id(matrix.parameter))
            if layer is not None and layer.tokens:
                found[name] = layer.norms
            elif experts and not self._padded:
                unchosen = torch.ones(matrix.in_features, dtype=torch.float64)
                found[name] = torch.stack(
                    [
                        experts[index].norms
                        if index in experts
                        else unchosen.to(matrix.weight.device)
                        for index in range(len(matrix.weight))
                    ]
                )
        return found

    def _new(self, matrix: WeightMatrix) -> FeatureNorms:
        return FeatureNorms(matrix.in_features, matrix.weight.device)

    def _fitted(self, inputs: Tensor) -> Tensor | None:
        # Some modules flatten [B, T, K] to [B·T, K] before their products.
        mask = self.mask
        if mask is not None and inputs.ndim == 2 and mask.numel() == inputs.shape[0]:
            return mask.reshape(-1)
        return mask
