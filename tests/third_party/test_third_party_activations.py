"""Activation quantizers of real libraries through ActivationQuantizerSuite."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from infopt_reference.quantization import Granularity, QuantizationScheme, preset
from infopt_suites.quantization import ActivationQuantizerSuite, Grid, MakeActivationQuantizer
from optimum.quanto import absmax_scale, qint8, quantize_activation
from torch import Tensor
from torch.ao.quantization import FakeQuantize, MinMaxObserver
from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer
from torchao.quantization.utils import (
    _quantize_activation_per_token_absmax,
    per_token_dynamic_quant,
)
from transformers.integrations.bitnet import ActQuant

TOKEN, TOKEN_ZERO = preset("int8"), preset("int8", symmetric=False)
TENSOR = preset("int8", granularity="tensor")
TENSOR_ZERO = preset("int8", granularity="tensor", symmetric=False)
FLOAT32 = torch.finfo(torch.float32)


# torchao


class TokenAbsmax:
    """torchao's per-token int8; the arithmetic is that of the activations' dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.grid = Grid(
            steps=127.0, smallest_scale=1e-5, scale_follows_weight=True, compute_dtype=dtype
        )

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes, scales = _quantize_activation_per_token_absmax(x)
        return codes, scales


class OfTorchaoAbsmax(ActivationQuantizerSuite):
    capabilities = frozenset({"codes", "strided"})
    schemes = (TOKEN,)
    shortest_side = 2  # of a single feature all tokens get the same scale, a finding of its own
    examples = 12

    @pytest.fixture
    def make_activation_quantizer(self) -> MakeActivationQuantizer:
        return lambda scheme: TokenAbsmax(self.dtypes[0])


class TestTorchaoAbsmax(OfTorchaoAbsmax):
    dtypes = (torch.float32,)


class TestTorchaoAbsmaxInFloat16(OfTorchaoAbsmax):
    dtypes = (torch.float16,)


class TestTorchaoAbsmaxInBfloat16(OfTorchaoAbsmax):
    dtypes = (torch.bfloat16,)


class TokenRange:
    """torchao's per-token int8 with zero points, as its dynamic linear layers use it."""

    grid = Grid(steps=255.0, smallest_scale=FLOAT32.smallest_normal)

    def __call__(self, x: Tensor) -> Tensor:
        return per_token_dynamic_quant(x)


class TokenRangeInFloat16(TokenRange):
    """Scales of float16, which are kept in float32."""

    grid = Grid(
        steps=255.0,
        smallest_scale=torch.finfo(torch.float16).smallest_normal,
        scale_follows_weight=True,
        compute_dtype=torch.float16,
    )


class TestTorchaoRange(ActivationQuantizerSuite):
    capabilities = frozenset({"strided"})
    schemes = (TOKEN_ZERO,)
    shortest_side = 2
    dtypes = (torch.float32,)
    examples = 12

    @pytest.fixture
    def make_activation_quantizer(self) -> MakeActivationQuantizer:
        return lambda scheme: TokenRange()


class TestTorchaoRangeInFloat16(ActivationQuantizerSuite):
    expected_failures = dict.fromkeys(
        (
            "test_error_is_within_the_bound_of_the_scheme",
            "test_activations_are_on_the_grid",
            "test_finite_activations_come_back_finite",
            "test_powers_of_two_pass_through",
        ),
        "finding: a range of more than 65,504 overflows",
    )
    schemes = (TOKEN_ZERO,)
    shortest_side = 2
    dtypes = (torch.float16,)
    examples = 12

    @pytest.fixture
    def make_activation_quantizer(self) -> MakeActivationQuantizer:
        return lambda scheme: TokenRangeInFloat16()


class Trained:
    """torchao's quantization-aware training; symmetric tokens are not supported there."""

    grid = TokenRange.grid

    def __init__(self) -> None:
        config = IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
        self.fake = IntxFakeQuantizer(config)

    def __call__(self, x: Tensor) -> Tensor:
        rounded: Tensor = self.fake(x)
        return rounded


class TestTorchaoFakeQuantizer(ActivationQuantizerSuite):
    capabilities = frozenset({"straight-through", "strided"})
    schemes = (TOKEN_ZERO,)
    shortest_side = 2
    dtypes = (torch.float32,)
    examples = 12

    @pytest.fixture
    def make_activation_quantizer(self) -> MakeActivationQuantizer:
        return lambda scheme: Trained()


# compressed-tensors


class CompressedTensors:
    """Dynamic activations, as its wrapped layers round their inputs."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        strategies = {Granularity.CHANNEL: "token"}
        self.arguments = QuantizationArgs(
            num_bits=scheme.bits,
            type="float" if scheme.codebook else "int",
            symmetric=scheme.symmetric,
            strategy=strategies.get(scheme.granularity, scheme.granularity.value),
            group_size=scheme.group_size,
            dynamic=True,
        )
        if scheme.codebook is None:
            steps = 2.0 ** (scheme.bits - 1) - 0.5 if scheme.symmetric else 2.0**scheme.bits - 1
            self.grid = Grid(steps=steps, scale_follows_weight=True)

    def __call__(self, x: Tensor) -> Tensor:
        scale, zero_point = compute_dynamic_scales_and_zp(x, self.arguments, torch.nn.Module())
        return fake_quantize(x, scale, zero_point, self.arguments)


class OfCompressedTensors(ActivationQuantizerSuite):
    capabilities = frozenset({"strided"})
    dtypes = (torch.float32,)
    examples = 12

    @pytest.fixture
    def make_activation_quantizer(self) -> MakeActivationQuantizer:
        return CompressedTensors


class TestCompressedTensors(OfCompressedTensors):
    schemes = (preset("int8", granularity="group", group_size=32), TENSOR, TENSOR_ZERO)


class TestCompressedTensorsTokens(OfCompressedTensors):
    """[B, T, K], as its layers are called."""

    schemes = (TOKEN, TOKEN_ZERO, preset("fp8"))
    ranks = (3,)


class TestCompressedTensorsMatrices(OfCompressedTensors):
    """[T, K]."""

    expected_failures = dict.fromkeys(
        (
            "test_error_is_within_the_bound_of_the_scheme",
            "test_activations_are_on_the_grid",
            "test_a_token_alone_is_what_it_is_in_a_batch",
            "test_an_outlier_costs_only_what_shares_its_scale",
        ),
        "finding: tokens of a matrix share a scale",
    )
    schemes = (TOKEN,)
    ranks = (2,)


# torch.ao


class Observed:
    """FakeQuantize with its observer on, then off."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        symmetry = "symmetric" if scheme.symmetric else "affine"
        low, high = (-128, 127) if scheme.symmetric else (0, 255)
        self.grid = Grid(steps=127.5 if scheme.symmetric else 255.0, smallest_scale=FLOAT32.eps)
        self.fake = FakeQuantize(
            observer=MinMaxObserver,
            quant_min=low,
            quant_max=high,
            dtype=torch.qint8 if scheme.symmetric else torch.quint8,
            qscheme=getattr(torch, f"per_tensor_{symmetry}"),
        )

    def observe(self, x: Tensor) -> None:
        self.fake.enable_observer()
        self.fake(x)
        self.fake.disable_observer()

    def __call__(self, x: Tensor) -> Tensor:
        rounded: Tensor = self.fake(x)
        return rounded


class TestTorchFakeQuantize(ActivationQuantizerSuite):
    capabilities = frozenset({"static", "all-batches", "straight-through", "strided", "no-tokens"})
    schemes = (TENSOR, TENSOR_ZERO)
    dtypes = (torch.float32,)
    examples = 12

    @pytest.fixture
    def make_activation_quantizer(self) -> MakeActivationQuantizer:
        return Observed


# optimum-quanto


class Quanto:
    """Activations of a calibrated model: one scale, from the absmax of a batch."""

    # Scales are float32, whose spacing is 2^−149 at its smallest.
    grid = Grid(steps=127.0, smallest_scale=127 * 2.0**-149)

    def observe(self, x: Tensor) -> None:
        self.scale = absmax_scale(x, qint8)

    def __call__(self, x: Tensor) -> Tensor:
        rounded: Tensor = quantize_activation(x, qint8, self.scale).dequantize()
        return rounded


class TestQuanto(ActivationQuantizerSuite):
    capabilities = frozenset({"static", "strided", "no-tokens", "straight-through"})
    schemes = (TENSOR,)
    dtypes = (torch.float32,)
    examples = 12

    @pytest.fixture
    def make_activation_quantizer(self) -> MakeActivationQuantizer:
        return lambda scheme: Quanto()


# transformers


class BitNet:
    """The activations of `AutoBitLinear`."""

    grid = Grid(steps=127.0, smallest_scale=1e-5 / 127)

    def __call__(self, x: Tensor) -> Tensor:
        rounded: Tensor = ActQuant.apply(x)
        return rounded


class TestTransformersBitNet(ActivationQuantizerSuite):
    capabilities = frozenset({"straight-through", "strided", "no-tokens"})
    schemes = (TOKEN,)
    examples = 12

    @pytest.fixture
    def make_activation_quantizer(self) -> MakeActivationQuantizer:
        return lambda scheme: BitNet()
