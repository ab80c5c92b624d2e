"""What the matrices of a stack are multiplied with: found by watching products, not modules.

An expert is no module of its own: hooks see a mixture's tokens, and not who of them goes to which
expert. Every product x·Wᵀ of torch is therefore looked at while the mixture runs; where W lies in
the memory of a stack [E, out, in], its place tells the expert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..weight_matrices import WeightMatrix

_PRODUCTS = (
    functional.linear,
    torch.matmul,
    torch.mm,
    Tensor.matmul,
    Tensor.mm,
    Tensor.__matmul__,
)


class ExpertInputs(TorchFunctionMode):
    """While it is entered, calls ``record(name, expert, inputs)`` for each product x·W_expertᵀ."""

    def __init__(
        self,
        stacks: Mapping[str, WeightMatrix],
        record: Callable[[str, int, Tensor], None],
    ) -> None:
        super().__init__()
        self._record = record
        self._stacks = [(name, matrix.parameter) for name, matrix in stacks.items()]

    def __torch_function__(
        self,
        function: Any,
        types: Iterable[type],
        arguments: tuple[Any, ...] = (),
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        if function in _PRODUCTS and len(arguments) > 1 and isinstance(arguments[1], Tensor):
            self._look(arguments[0], arguments[1])
        return function(*arguments, **(keywords or {}))

    def _look(self, inputs: Tensor, weight: Tensor) -> None:
        for name, stack in self._stacks:
            offset = weight.data_ptr() - stack.data_ptr()
            if stack.ndim == 3 and weight.ndim == 2 and 0 <= offset < stack.nbytes:
                self._record(name, offset // stack[0].nbytes, inputs)
                return
