"""torch's own quantized tensors, with the observers of torch.ao, through QuantizerSuite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from infopt_reference.quantization import Granularity, QuantizationScheme
from infopt_suites.quantization import CodebookSuite, Grid, MakeQuantizer, QuantizerSuite
from torch import Tensor
from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver

# torch announces that quantized tensors will go.
pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")


class Observed:
    """Scales and zero points from an observer with its defaults, codes from `torch.quantize_*`."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        self.scheme = scheme
        # Symmetric grids span −128…127 by half its length: at the positive end half a step is
        # cut off, the rounding error of all others.
        self.grid = Grid(
            steps=127.5 if scheme.symmetric else 255.0,
            smallest_scale=torch.finfo(torch.float32).eps,  # the observers' ``eps``
        )

    def quantize(self, weight: Tensor) -> Tensor:
        symmetry = "symmetric" if self.scheme.symmetric else "affine"
        if self.scheme.granularity is Granularity.TENSOR:
            observer = MinMaxObserver(
                dtype=torch.qint8, qscheme=getattr(torch, f"per_tensor_{symmetry}")
            )
            observer(weight)
            scale, zero_point = observer.calculate_qparams()
            return torch.quantize_per_tensor(weight, float(scale), int(zero_point), torch.qint8)
        observer = PerChannelMinMaxObserver(
            ch_axis=self.scheme.axis,
            dtype=torch.qint8,
            qscheme=getattr(torch, f"per_channel_{symmetry}"),
        )
        observer(weight)
        scale, zero_point = observer.calculate_qparams()
        return torch.quantize_per_channel(weight, scale, zero_point, self.scheme.axis, torch.qint8)

    def dequantize(self, quantized: Tensor) -> Tensor:
        return quantized.dequantize()

    def codes(self, quantized: Tensor) -> Tensor:
        return quantized.int_repr()

    def scales(self, quantized: Tensor) -> Tensor:
        if self.scheme.granularity is Granularity.TENSOR:
            return torch.tensor(quantized.q_scale())
        return quantized.q_per_channel_scales()


class TestQuantizedTensors(QuantizerSuite):
    capabilities = frozenset({"codes", "scales", "strided"})
    schemes = tuple(
        QuantizationScheme(8, symmetric, *place)
        for symmetric in (True, False)
        for place in ((Granularity.TENSOR,), (Granularity.CHANNEL,), (Granularity.CHANNEL, 1))
    )
    dtypes = (torch.float32,)
    ranks = (2, 3)  # the observers of channels flatten from axis 1
    examples = 20

    @pytest.fixture
    def make_quantizer(self) -> MakeQuantizer:
        return Observed


class Cast:
    """torch's casts to a float8 dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def encode(self, values: Tensor) -> Tensor:
        return values.to(self.dtype).view(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        return codes.view(self.dtype).float()


def minifloat(exponent_bits: int, mantissa_bits: int, top: dict[int, float]) -> list[float]:
    """All 256 values of a sign, exponent and mantissa (OCP FP8), ``top`` the codes with a meaning

    of their own (infinity, NaN), by their lower seven bits.
    """
    bias = 2 ** (exponent_bits - 1) - 1
    positive = []
    for code in range(128):
        exponent, mantissa = divmod(code, 2**mantissa_bits)
        fraction = mantissa / 2**mantissa_bits + (exponent > 0)
        value = fraction * 2.0 ** (max(exponent, 1) - bias)
        positive.append(top.get(code, value))
    return [*positive, *[-value for value in positive]]


NAN, INFINITY = float("nan"), float("inf")


class TestE4M3FN(CodebookSuite):
    """No infinity; casts beyond the largest number give NaN, so it does not saturate."""

    capabilities = frozenset({"keeps-nan"})
    levels = minifloat(4, 3, {0x7F: NAN})
    ties = "even"

    @pytest.fixture
    def codebook(self) -> Any:
        return Cast(torch.float8_e4m3fn)


class TestE5M2(CodebookSuite):
    capabilities = frozenset({"keeps-nan"})
    levels = minifloat(5, 2, {0x7C: INFINITY, 0x7D: NAN, 0x7E: NAN, 0x7F: NAN})
    ties = "even"

    @pytest.fixture
    def codebook(self) -> Any:
        return Cast(torch.float8_e5m2)
