"""Quantized weights as state of a model, and parameters that are decoded when they are read.

A layer that computes x·Wᵀ + b is replaced by a quantized one (`linear`). Experts, and layers that
do more, compute in their own way: they keep their code, and what they read as their parameter is
decoded for them. One that reads its parameter several times in a forward pass, once for every
expert, gets the same decoded tensor; after the pass nothing but codes and constants is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..weight_matrices import WeightMatrix
from .quantized import QuantizedTensor


class PackedWeight(nn.Module):
    """A quantized matrix whose codes, scales and zero points are buffers.

    They move with ``.to(device)`` and live in the state_dict, but a change of dtype (``.half()``,
    ``.to(torch.bfloat16)``) leaves them as they are; the dtype into which `weight` decodes follows.

    Raises:
        ValueError: the weight is not a matrix.
    """

    def __init__(self, weight: QuantizedTensor) -> None:
        super().__init__()
        if len(weight.shape) != 2:
            raise ValueError(f"the weight has shape {tuple(weight.shape)}; a matrix is needed")
        self.scheme = weight.scheme
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        self._constants = tuple(weight.constants)
        for name, constant in weight.constants.items():
            self.register_buffer(name, constant)

    @property
    def quantized_weight(self) -> QuantizedTensor:
        """The weights as stored now (views of the buffers)."""
        return QuantizedTensor(
            scheme=self.scheme,
            shape=torch.Size([self.out_features, self.in_features]),
            dtype=self.dtype,
            **{name: self.get_buffer(name) for name in self._constants},
        )

    @property
    def weight(self) -> Tensor:
        """The matrix [out, in], decoded now: for code that reads it in place of calling a layer."""
        return self.quantized_weight.dequantize()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # nn.Module converts every floating-point buffer; scales rounded to a narrower dtype would
        # silently change the weights. So the move is kept, the conversion is undone.
        constants = {name: self.get_buffer(name) for name in self._constants}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for name, constant in constants.items():
            setattr(self, name, constant.to(self.get_buffer(name).device))
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
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


class PackedStack(PackedWeight):
    """The matrices of a `WeightMatrix` one below the other, read in the parameter's own shape."""

    def __init__(self, weight: QuantizedTensor, matrix: WeightMatrix) -> None:
        super().__init__(weight)
        self._shape = matrix.weight.shape
        self._layout = matrix.layout
        self._in_use = False
        self._decoded: Tensor | None = None

    def read(self) -> Tensor:
        """The parameter, decoded; during a forward pass of its module, once."""
        decoded = self._decoded
        if decoded is None:
            decoded = self._layout.stored(self.weight.view(self._shape))
        self._decoded = decoded if self._in_use else None
        return decoded

    def use(self, in_use: bool) -> None:
        """Begins or ends a forward pass of the module."""
        self._in_use, self._decoded = in_use, None


def decode_on_access(matrix: WeightMatrix, weight: QuantizedTensor) -> None:
    """Replaces a parameter by its codes, in place; its module reads it as before.

    Args:
        matrix: the parameter.
        weight: its `rows`, quantized.
    """
    module, name = matrix.module, matrix.parameter_name
    packed = PackedStack(weight, matrix).train(module.training)
    delattr(module, name)
    module.add_module(_packed_name(name), packed)
    module.__class__ = _reading(type(module), name)  # type: ignore[arg-type]  # a class hashes


@functools.cache
def _reading(kind: type[nn.Module], name: str) -> type[nn.Module]:
    """The class with a parameter of that name that is decoded when it is read."""
    packed_name = _packed_name(name)

    def read(self: nn.Module) -> Tensor:
        packed = self._modules[packed_name]
        assert isinstance(packed, PackedStack)
        return packed.read()

    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *arguments: Any, **keywords: Any) -> Any:
        packed = self._modules[packed_name]
        assert isinstance(packed, PackedStack)
        packed.use(True)
        try:
            return kind.forward(self, *arguments, **keywords)
        finally:
            packed.use(False)

    members = {name: property(read), "forward": forward, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), members)


def _packed_name(name: str) -> str:
    return f"{name}_packed"
