"""torchao's and optimum-quanto's ways to quantize a whole model through ModelQuantizerSuite."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import torch
from infopt_reference.quantization import Granularity, QuantizationScheme, preset
from infopt_suites.quantization import Grid, MakeModelQuantizer, ModelQuantizerSuite
from infopt_suites.quantization.whole_models import MODELS
from optimum.quanto import freeze, qint4, qint8, quantize
from torch import Tensor, nn
from torchao.quantization import (
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    PerGroup,
    quantize_,
)

EPSILON = torch.finfo(torch.float32).eps
INT4 = QuantizationScheme(4, True, Granularity.GROUP, group_size=32)


def without(*names: str) -> tuple[str, ...]:
    return tuple(name for name in MODELS if name not in names)


class Torchao:
    """`quantize_` with its own filter: whatever is an `nn.Linear`."""

    def __init__(self, config: Any, steps: float) -> None:
        self.config = config
        self.grid = Grid(steps=steps, smallest_scale=EPSILON)  # as in test_third_party_torchao

    def __call__(self, model: nn.Module) -> None:
        quantize_(model, self.config)


class OfTorchao(ModelQuantizerSuite):
    """A head that is the embedding is quantized; a second call finds weights that it can't view."""

    capabilities = frozenset({"nearest", "weight-only", "same-names", "state"})
    schemes = (preset("int8"),)
    dtypes = (torch.float32,)
    models = without("subclasses")
    takes = ("linear",)
    tied_head = "untied"
    refusals = (NotImplementedError,)


class TestTorchaoInt8(OfTorchao):
    @pytest.fixture
    def make_model_quantizer(self) -> MakeModelQuantizer:
        return lambda scheme: Torchao(Int8WeightOnlyConfig(), 127.5)


class TestTorchaoInt4(OfTorchao):
    schemes = (INT4,)

    @pytest.fixture
    def make_model_quantizer(self) -> MakeModelQuantizer:
        config = IntxWeightOnlyConfig(
            weight_dtype=torch.int4,  # type: ignore[attr-defined]  # not in the stubs of torch
            granularity=PerGroup(32),
        )
        return lambda scheme: Torchao(config, 7.5)


class TorchaoDynamic(Torchao):
    """Activations are rounded too, and unit vectors among them."""

    def matrix(self, model: nn.Module, name: str) -> Tensor:
        weight: Any = model.get_parameter(name)
        found: Tensor = weight.dequantize() if hasattr(weight, "dequantize") else weight
        return found


class TestTorchaoDynamicInt8(OfTorchao):
    capabilities = frozenset({"nearest", "same-names", "state"})
    models = ("llama", "llama-tied", "patchwork", "shared")

    @pytest.fixture
    def make_model_quantizer(self) -> MakeModelQuantizer:
        return lambda scheme: TorchaoDynamic(Int8DynamicActivationInt8WeightConfig(), 127.5)


class TestTorchaoOfSubclasses(OfTorchao):
    models = ("subclasses",)
    takes = ("linear", "subclass")
    expected_failures = dict.fromkeys(
        (
            "test_every_matrix_is_quantized_or_declared_to_be_left_alone",
            "test_each_weight_is_within_the_bound_of_its_scheme",
            "test_quantizing_twice_is_quantizing_once",
            "test_outputs_are_those_of_the_decoded_weights",
            "test_the_quantized_model_runs",
            "test_the_order_of_modules_does_not_matter",
            "test_nothing_is_remembered_from_earlier_models",
            "test_a_saved_state_restores_the_model",
        ),
        "finding: a layer that writes its product out cannot run any more",
    )

    @pytest.fixture
    def make_model_quantizer(self) -> MakeModelQuantizer:
        return lambda scheme: Torchao(Int8WeightOnlyConfig(), 127.5)


class Quanto:
    """`quantize` and `freeze`."""

    def __init__(self, weights: Any, grid: Grid, *exclude: str) -> None:
        self.weights, self.grid, self.exclude = weights, grid, [*exclude]

    def __call__(self, model: nn.Module) -> None:
        quantize(model, weights=self.weights, exclude=self.exclude)
        freeze(model)


class OfQuanto(ModelQuantizerSuite):
    capabilities: Collection[str] = frozenset({"nearest", "weight-only", "state"})
    dtypes = (torch.float32,)
    models = without("subclasses", "shared")
    takes = ("linear",)
    tied_head = "untied"
    expected_failures = {  # noqa: RUF012  # read only
        "test_training_modes_and_module_names_stay": "finding: new layers are in training mode"
    }


class TestQuantoInt8(OfQuanto):
    schemes = (preset("int8"),)

    @pytest.fixture
    def make_model_quantizer(self) -> MakeModelQuantizer:
        return lambda scheme: Quanto(qint8, Grid(steps=127.0, smallest_scale=127 * 2.0**-149))


class TestQuantoInt4(OfQuanto):
    """Rows of 128 and more would come in groups of 128; 0 is a level by chance."""

    schemes = (QuantizationScheme(4, False, Granularity.GROUP, group_size=64),)
    models = ("llama", "llama-tied")
    leaves_alone = ("down_proj",)

    @pytest.fixture
    def make_model_quantizer(self) -> MakeModelQuantizer:
        grid = Grid(steps=15.0, zero_is_level=False)
        return lambda scheme: Quanto(qint4, grid, "*.down_proj")
