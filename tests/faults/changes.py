"""Changes of a model in memory that are taken back, bit for bit, in the opposite order."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from infopt_reference.quantization.packed_weight import PackedWeight
from infopt_reference.quantization.quantized import quantize
from torch import Tensor, nn

Around = Callable[..., Any]  # called with the original forward and the call's arguments
_MISSING = object()


class Changes:
    """What is changed now. ``size`` is the largest relative change of a row of a weight so far."""

    def __init__(self) -> None:
        self.size: float | None = None
        self._undo = ExitStack()

    @classmethod
    @contextmanager
    def undone(cls) -> Iterator[Changes]:
        """Changes that are taken back at the end."""
        changes = cls()
        with changes._undo, torch.no_grad():
            yield changes

    def assign(self, tensor: Tensor, values: Tensor | float) -> None:
        """Write values into a tensor, or into a view of one."""
        kept = tensor.clone()
        self._undo.callback(_copy, tensor, kept)
        tensor.copy_(torch.as_tensor(values, dtype=tensor.dtype, device=tensor.device))

    def attribute(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute; one that was not the object's own is deleted afterwards."""
        kept = vars(owner).get(name, _MISSING)
        undo: tuple[Any, ...] = (setattr, owner, name, kept)
        if kept is _MISSING:
            undo = (delattr, owner, name)
        self._undo.callback(*undo)
        setattr(owner, name, value)

    def parameter(self, module: nn.Module, name: str, value: Tensor | None) -> None:
        """Put another parameter, or none, in a parameter's place."""
        kept = module._parameters.get(name)
        self._undo.callback(module._parameters.__setitem__, name, kept)
        new = None if value is None else nn.Parameter(value, requires_grad=False)
        module._parameters[name] = new

    def submodule(self, parent: nn.Module, name: str, value: nn.Module) -> None:
        """Put another module in a module's place, or a new one beside the others."""
        kept = parent._modules.get(name, _MISSING)
        if kept is _MISSING:
            self._undo.callback(parent._modules.pop, name)
        else:
            self._undo.callback(parent._modules.__setitem__, name, kept)
        parent._modules[name] = value

    def weight(
        self, module: nn.Module, change: Callable[[Tensor], Tensor], name: str = "weight"
    ) -> None:
        """Change a weight; one of our quantized layers' is decoded, changed and quantized again."""
        packed = _packed(module, name)
        if packed is None:
            parameter = getattr(module, name)
            old, new = parameter.detach(), change(parameter.detach().float().clone())
            self._measure(old, new)
            self.assign(parameter.data, new)
            return
        decoded = getattr(module, name).detach()
        new = change(decoded.float().clone())
        self._measure(decoded, new)
        rows = new.mT if getattr(packed, "_transposed", False) else new
        rows = rows.reshape(packed.out_features, packed.in_features).to(packed.dtype)
        for constant, value in quantize(rows, packed.scheme).constants.items():
            self.attribute_of_buffer(packed, constant, value)

    def attribute_of_buffer(self, module: nn.Module, name: str, value: Tensor) -> None:
        """Put another tensor in a buffer's place."""
        self._undo.callback(module._buffers.__setitem__, name, module._buffers[name])
        module._buffers[name] = value

    def forward(self, module: nn.Module, around: Around) -> None:
        """Call ``around(forward, *args, **kwargs)`` in place of a module's forward."""
        own = module.forward

        @functools.wraps(own)
        def changed(*args: Any, **kwargs: Any) -> Any:
            return around(own, *args, **kwargs)

        self.attribute(module, "forward", changed)

    def callback(self, undo: Callable[..., Any], *arguments: Any) -> None:
        """Call at the end, for what is changed by other means."""
        self._undo.callback(undo, *arguments)

    def keep(self) -> None:
        """Leave everything as it is changed."""
        self._undo.pop_all()

    def _measure(self, old: Tensor, new: Tensor) -> None:
        old, new = (t.detach().double().reshape(-1, t.shape[-1]) for t in (old, new))
        scale = old.norm(dim=-1).clamp(min=float(old.norm()) / math.sqrt(len(old)) / 100 + 1e-300)
        size = float(((new - old).norm(dim=-1) / scale).max())
        self.size = max(size, self.size or 0.0)


def _copy(tensor: Tensor, kept: Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(kept)


def _packed(module: nn.Module, name: str) -> PackedWeight | None:
    if isinstance(module, PackedWeight):
        return module
    if name in module._parameters:
        return None
    found = [child for key, child in module.named_children() if name in key]
    return found[0] if found and isinstance(found[0], PackedWeight) else None
