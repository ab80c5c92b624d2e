"""A linear layer whose weights stay quantized: they are dequantized in each forward pass.

y = x · Wᵀ + b with W decoded into the dtype of x. Weight-only quantization in its plainest form:
it shows what the format costs in quality and in memory. There is no kernel that computes on codes,
so it is slower than the float layer, in exchange for bytes that are really saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from .packed_weight import PackedWeight
from .quantized import QuantizedTensor, parted, quantize
from .scheme import QuantizationScheme


class QuantizedLinear(PackedWeight):
    """`nn.Linear` for inference with quantized weights, whose state is that of `PackedWeight`.

    Gradients reach the input and the bias, not the weights.

    Raises:
        ValueError: the weight is not a matrix.
    """

    def __init__(self, weight: QuantizedTensor, bias: nn.Parameter | None = None) -> None:
        super().__init__(weight)
        self.bias: nn.Parameter | None
        self.register_parameter("bias", bias)

    @classmethod
    def from_linear(cls, linear: nn.Linear, scheme: QuantizationScheme) -> Self:
        """Quantizes a layer's weight; the bias is shared with it, not copied."""
        return cls(quantize(linear.weight, scheme), linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] → [..., out_features], in the dtype of x."""
        parts = parted(self.quantized_weight)
        biases: Sequence[Tensor | None] = [None] * len(parts)
        if self.bias is not None:
            biases = torch.split(self.bias.to(x.dtype), [part.shape[0] for part in parts])
        # Part by part: the decoded matrix of a vocabulary would travel through main memory.
        outputs = [
            functional.linear(x, part.dequantize(x.dtype), bias)  # [..., rows of the part]
            for part, bias in zip(parts, biases, strict=True)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, {self.scheme}"
        )
