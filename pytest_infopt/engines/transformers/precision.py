"""Float64 arithmetic throughout a transformers model.

Model code asks for float32 on purpose: RMSNorm and rotary embeddings cast to it, eager attention
wants softmax in it. In a 16-bit model that is a step up; in a float64 model it puts float32
rounding back into the oracle: for SmolLM2-135M 22 % of the error of the whole float32 model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode


class Float64Arithmetic(TorchFunctionMode):
    """While active, every request for float32 in a torch call is answered with float64.

    Covers `Tensor.float()`, `Tensor.to(torch.float32)`, `type(torch.float32)`, each
    ``dtype=torch.float32`` argument, and tensors made without a dtype, which are torch's default:
    XGLM's mask is filled with float64's lowest number, which a float32 tensor cannot hold. Meant
    for a module whose parameters and buffers are float64.
    """

    def __enter__(self) -> Self:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        super().__enter__()  # type: ignore[no-untyped-call]  # torch's
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]  # torch's
        torch.set_default_dtype(self._default)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        widened = {key: _widen(value) for key, value in (kwargs or {}).items()}
        return func(*(_widen(value) for value in args), **widened)


def _widen(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
