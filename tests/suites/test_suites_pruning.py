"""PruningSuite accepts the reference, torch's two pruners, and torchao's but for its Wanda."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from infopt_reference.pruning import (
    FeatureNorms,
    MaskedTraining,
    magnitude_scores,
    n_m_mask,
    unstructured_mask,
    wanda_scores,
)
from infopt_suites import PruningSuite
from torch import Tensor, nn
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.utils import prune


class Magnitude:
    """The reference's masks by |w|."""

    per_row = False

    def scores(self, weight: Tensor, inputs: Tensor | None) -> Tensor:
        return magnitude_scores(weight)

    def mask(
        self,
        weight: Tensor,
        *,
        sparsity: float | None = None,
        pattern: tuple[int, int] | None = None,
        inputs: Tensor | None = None,
    ) -> Tensor:
        scores = self.scores(weight, inputs)
        if pattern is not None:
            return n_m_mask(scores, pattern)
        return unstructured_mask(scores, sparsity or 0.0, per_row=self.per_row)

    def keep(self, *arguments: Any) -> MaskedTraining:
        return MaskedTraining(*arguments)


class Rows(Magnitude):
    per_row = True


class Wanda(Rows):
    def scores(self, weight: Tensor, inputs: Tensor | None) -> Tensor:
        assert inputs is not None
        norms = FeatureNorms(weight.shape[1])
        for sequence in inputs:
            norms.observe(sequence)
        return wanda_scores(weight, norms.norms)


class TorchPrune:
    """torch.nn.utils.prune: L1Unstructured, and masks as a reparametrization."""

    def mask(self, weight: Tensor, *, sparsity: float, **_: Any) -> Tensor:
        everything = torch.ones_like(weight)
        return prune.L1Unstructured(sparsity).compute_mask(weight, everything).bool()

    def structured_mask(self, weight: Tensor, *, sparsity: float, axis: int) -> Tensor:
        method = prune.LnStructured(sparsity, n=1, dim=axis)
        return method.compute_mask(weight, torch.ones_like(weight)).bool()

    def keep(self, module: nn.Module, masks: Mapping[str, Tensor], _: Any) -> None:
        for name, mask in masks.items():
            path, _, last = name.rpartition(".")
            prune.custom_from_mask(module.get_submodule(path), last, mask)


class Replacing(Magnitude):
    """Earlier masks are let go of when new ones come."""

    held: MaskedTraining | None = None

    def keep(self, *arguments: Any) -> MaskedTraining:
        if self.held is not None:
            self.held.make_permanent()
        self.held = MaskedTraining(*arguments)
        return self.held


class TestReferenceReplacing(PruningSuite):
    capabilities = frozenset({"training", "remasking", "regrows"})

    @pytest.fixture
    def make_pruner(self) -> type[Replacing]:
        return Replacing


class TestReferenceMagnitude(PruningSuite):
    capabilities = frozenset({"sparsity", "patterns", "training", "remasking"})

    @pytest.fixture
    def make_pruner(self) -> type[Magnitude]:
        return Magnitude


class TestReferenceRows(PruningSuite):
    capabilities = frozenset({"sparsity", "rows"})

    @pytest.fixture
    def make_pruner(self) -> type[Rows]:
        return Rows


class TestReferenceWanda(PruningSuite):
    capabilities = frozenset({"sparsity", "rows", "patterns", "activations"})

    @pytest.fixture
    def make_pruner(self) -> type[Wanda]:
        return Wanda


class TestTorchPrune(PruningSuite):
    capabilities = frozenset({"sparsity", "structured", "training", "remasking"})
    slice_norm = 1

    @pytest.fixture
    def make_pruner(self) -> type[TorchPrune]:
        return TorchPrune


class TorchaoWanda:
    """torchao's WandaSparsifier, which ranks scores over the whole layer and knows n:2n only."""

    def mask(
        self,
        weight: Tensor,
        *,
        sparsity: float | None = None,
        pattern: tuple[int, int] | None = None,
        inputs: Tensor | None = None,
    ) -> Tensor:
        assert inputs is not None
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
        linear.weight.data = weight.clone()
        model = nn.Sequential(linear)
        sparsifier = quiet_wanda(sparsity, pattern)
        sparsifier.prepare(model, config=[{"tensor_fqn": "0.weight"}])
        model(inputs.to(weight.dtype))
        sparsifier.step()
        mask: Tensor = model[0].parametrizations.weight[0].mask
        return mask.bool()


def quiet_wanda(sparsity: float | None, pattern: tuple[int, int] | None) -> Any:
    sparsity_module = pytest.importorskip("torchao.sparsity")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it repeats that block sizes mean half
        if pattern is None:
            return sparsity_module.WandaSparsifier(sparsity_level=sparsity)
        return sparsity_module.WandaSparsifier(semi_structured_block_size=pattern[1])


class TestTorchaoWanda(PruningSuite):
    capabilities = frozenset({"sparsity", "patterns", "activations"})
    patterns = ((2, 4), (4, 8))
    dtypes = (torch.float32,)
    # tests/findings/test_findings_torchao_wanda.py
    expected_failures = {  # noqa: RUF012
        "test_what_stays_scores_no_less_than_what_goes": "torchao 0.18.0 squares the norms",
        "test_activations_decide_with_the_weights": "torchao 0.18.0 squares the norms",
    }

    @pytest.fixture
    def make_pruner(self) -> type[TorchaoWanda]:
        return TorchaoWanda


class WeightNorm:
    """torch.ao.pruning.WeightNormSparsifier."""

    def mask(
        self,
        weight: Tensor,
        *,
        sparsity: float | None = None,
        pattern: tuple[int, int] | None = None,
        inputs: Tensor | None = None,
    ) -> Tensor:
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight.data = weight.clone()
        model = nn.Sequential(linear)
        kept, block = pattern or (0, 1)
        sparsifier = WeightNormSparsifier(
            sparsity_level=1.0 if sparsity is None else sparsity,
            sparse_block_shape=(1, block),
            zeros_per_block=block - kept,
        )
        sparsifier.prepare(model, config=[{"tensor_fqn": "0.weight"}])
        sparsifier.step()
        mask: Tensor = model[0].parametrizations.weight[0].mask
        return mask.bool()


class TestTorchWeightNorm(PruningSuite):
    capabilities = frozenset({"sparsity", "patterns"})
    dtypes = (torch.float32,)

    @pytest.fixture
    def make_pruner(self) -> type[WeightNorm]:
        return WeightNorm


class MaskCreator:
    """torchao.sparsity.utils.mask_creator."""

    def mask(self, weight: Tensor, *, pattern: tuple[int, int], **_: Any) -> Tensor:
        utilities = pytest.importorskip("torchao.sparsity.utils")
        mask: Tensor = utilities.mask_creator(weight, *pattern)
        return mask.bool()


class TestTorchaoMaskCreator(PruningSuite):
    capabilities = frozenset({"patterns"})

    @pytest.fixture
    def make_pruner(self) -> type[MaskCreator]:
        return MaskCreator
