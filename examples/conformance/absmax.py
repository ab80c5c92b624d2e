"""Two quantizers to four bits, alike but for one line: what a conformance run says of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from infopt_reference.quantization import Granularity, QuantizationScheme
from torch import Tensor

ROWS = QuantizationScheme(bits=4, symmetric=True, granularity=Granularity.CHANNEL, axis=0)


@dataclass(frozen=True)
class Quantized:
    """Codes −7 … 7 in the weight's shape, and a scale for each row."""

    codes: Tensor
    scales: Tensor
    dtype: torch.dtype


class Careful:
    """Absmax, row by row. The attributes tell the suite what to try, as a subclass's would."""

    capabilities: ClassVar = {"codes"}
    schemes: ClassVar = [ROWS]
    ranks: ClassVar = [2]

    def __init__(self, scheme: QuantizationScheme) -> None:
        self.limit = 2 ** (scheme.bits - 1) - 1

    def quantize(self, weight: Tensor) -> Quantized:
        weight32 = weight.float()
        scales = self.scales(weight32.abs().amax(dim=1, keepdim=True))
        codes = (weight32 / scales).round().clamp(-self.limit, self.limit).to(torch.int8)
        return Quantized(codes, scales, weight.dtype)

    def dequantize(self, quantized: Quantized) -> Tensor:
        return (quantized.codes * quantized.scales).to(quantized.dtype)

    def codes(self, quantized: Quantized) -> Tensor:
        return quantized.codes

    def scales(self, largest: Tensor) -> Tensor:
        scales = largest / self.limit
        return torch.where(scales > 0, scales, 1.0)


class Careless(Careful):
    """The same, with a guard against division by zero that rounds rows of tiny weights away."""

    def scales(self, largest: Tensor) -> Tensor:
        return (largest / self.limit).clamp(min=1e-5)
