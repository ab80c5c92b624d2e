"""A linear layer whose weights stay quantized: they are dequantized in each forward pass.

y = x · Wᵀ + b with W decoded into the dtype of x. Weight-only quantization in its plainest form:
it shows what the format costs in quality and in memory. There is no kernel that computes on codes,
so it is slower than the float layer, in exchange for bytes that are really saved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from .quantized import QuantizedTensor, quantize
from .scheme import QuantizationScheme


class QuantizedLinear(nn.Module):
    """`nn.Linear` for inference with quantized weights.

    Codes, scales and zero points are buffers: they move with ``.to(device)`` and live in the
    state_dict, but a change of dtype (``.half()``, ``.to(torch.bfloat16)``) leaves them as they
    are; only the bias follows it. Gradients reach the input and the bias, not the weights.

    Raises:
        ValueError: the weight is not a matrix.
    """

    def __init__(self, weight: QuantizedTensor, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        if len(weight.shape) != 2:
            raise ValueError(f"the weight has shape {tuple(weight.shape)}; a matrix is needed")
        self.scheme = weight.scheme
        self.out_features, self.in_features = weight.shape
        self._dtype = weight.dtype
        self._constants = tuple(weight.constants)
        for name, constant in weight.constants.items():
            self.register_buffer(name, constant)
        self.bias: nn.Parameter | None
        self.register_parameter("bias", bias)

    @classmethod
    def from_linear(cls, linear: nn.Linear, scheme: QuantizationScheme) -> Self:
        """Quantizes a layer's weight; the bias is shared with it, not copied."""
        return cls(quantize(linear.weight, scheme), linear.bias)

    @property
    def quantized_weight(self) -> QuantizedTensor:
        """The weights as stored now (views of the buffers)."""
        return QuantizedTensor(
            scheme=self.scheme,
            shape=torch.Size([self.out_features, self.in_features]),
            dtype=self._dtype,
            **{name: self.get_buffer(name) for name in self._constants},
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] → [..., out_features], in the dtype of x."""
        weight = self.quantized_weight.dequantize(x.dtype)  # [out_features, in_features]
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.linear(x, weight, bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # nn.Module converts every floating-point buffer; scales rounded to a narrower dtype would
        # silently change the weights. So the move is kept, the conversion is undone.
        constants = {name: self.get_buffer(name) for name in self._constants}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for name, constant in constants.items():
            setattr(self, name, constant.to(self.get_buffer(name).device))
        return self

    def get_extra_state(self) -> dict[str, str]:
        """The scheme in words: the buffers' shapes cannot tell NF4 from FP4."""
        return {"scheme": str(self.scheme)}

    def set_extra_state(self, state: dict[str, str]) -> None:
        """Raises ValueError when the state_dict was written under another scheme."""
        if state["scheme"] != str(self.scheme):
            raise ValueError(
                f"the state_dict holds weights in {state['scheme']}, this layer reads "
                f"{self.scheme}; build the layer with the scheme that was saved"
            )

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, {self.scheme}"
        )
