"""ModelQuantizerSuite accepts the reference's quantizers and pruners of whole models."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import pytest
import torch
from infopt_reference.pruning import prune_model
from infopt_reference.quantization import QuantizationScheme, preset, quantize_model
from infopt_suites import ModelQuantizerSuite
from torch import nn


class Reference:
    """`quantize_model`, in place."""

    def __init__(self, scheme: QuantizationScheme, **options: Any) -> None:
        self.scheme, self.options = scheme, options

    def __call__(self, model: nn.Module) -> None:
        quantize_model(model, self.scheme, **self.options)

    def left_alone(self, model: nn.Module) -> Collection[str]:
        return quantize_model(model, self.scheme, **self.options).skipped


CLAIMS = frozenset({"nearest", "weight-only", "left-alone", "state"})


class TestReference(ModelQuantizerSuite):
    capabilities = CLAIMS
    schemes = (preset("int8"), preset("int4", group_size=32), preset("nf4-double"))
    leaves_alone = ("lm_head",)

    @pytest.fixture
    def make_model_quantizer(self) -> Any:
        return Reference


class TestReferenceWithTheHead(ModelQuantizerSuite):
    capabilities = CLAIMS
    schemes = (preset("int8"),)
    tied_head = "untied"

    @pytest.fixture
    def make_model_quantizer(self) -> Any:
        return lambda scheme: Reference(scheme, skip=(), include_tied=True)


class Copying(Reference):
    """The same for a copy, which is returned."""

    def __call__(self, model: nn.Module) -> nn.Module:  # type: ignore[override]
        made = copy.deepcopy(model)
        super().__call__(made)
        return made


class TestReferenceOfCopies(ModelQuantizerSuite):
    capabilities = CLAIMS | {"copies"}
    schemes = (preset("int8"),)
    leaves_alone = ("lm_head",)
    dtypes = (torch.float32,)

    @pytest.fixture
    def make_model_quantizer(self) -> Any:
        return Copying


class Pruner:
    """`prune_model`, in place: whatever the scheme, half of each matrix becomes zeros."""

    def __init__(self, scheme: QuantizationScheme, **options: Any) -> None:
        self.options = options

    def __call__(self, model: nn.Module) -> None:
        prune_model(model, **self.options)

    def left_alone(self, model: nn.Module) -> Collection[str]:
        return prune_model(model, **self.options).skipped


class OfPruners(ModelQuantizerSuite):
    capabilities = frozenset({"weight-only", "left-alone", "same-names", "state"})
    schemes = (preset("int8"),)
    leaves_alone = ("lm_head",)


class TestMagnitude(OfPruners):
    @pytest.fixture
    def make_model_quantizer(self) -> Any:
        return lambda scheme: Pruner(scheme, sparsity=0.5)


class TestPatterns(OfPruners):
    @pytest.fixture
    def make_model_quantizer(self) -> Any:
        return lambda scheme: Pruner(scheme, pattern=(2, 4))
