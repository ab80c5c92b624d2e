"""Calling one module of a model by itself, on what a module of another model was called with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = [
    "called_like",
    "computing_with",
    "copied",
    "first_tensor",
    "mapped",
    "moved",
    "nudged",
    "rounded_once_more",
    "tensors_by_place",
    "watched",
]

Seen = Callable[[str, tuple[Any, ...], dict[str, Any], Any], None]


@contextmanager
def watched(modules: Mapping[str, nn.Module], seen: Seen) -> Iterator[None]:
    """``seen`` is told of each call of the modules as it ends, and of what it returns."""

    def hook(name: str) -> Callable[..., None]:
        def tell(_: nn.Module, args: Any, keywords: Any, output: Any) -> None:
            seen(name, args, keywords, output)

        return tell

    handles = [
        module.register_forward_hook(hook(name), with_kwargs=True)
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tensors_by_place(value: Any, place: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in arguments or outputs, with where they are: "0", "position_embeddings.1"."""
    if isinstance(value, torch.Tensor):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from tensors_by_place(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, (tuple, list)):
        for index, inner in enumerate(value):
            yield from tensors_by_place(inner, f"{place}.{index}" if place else str(index))


def first_tensor(output: Any) -> torch.Tensor | None:
    """The first floating-point tensor of an output: a module's result by custom."""
    return next((t for _, t in tensors_by_place(output) if t.is_floating_point()), None)


def moved(value: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """The value with its tensors on a device, floating-point ones in a dtype.

    Caches and other objects stay what they are.
    """

    def move(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor.to(device)
        limits = torch.finfo(dtype)
        if limits.max < torch.finfo(tensor.dtype).max:
            tensor = tensor.clamp(limits.min, limits.max)  # masks hold the lowest number
        return tensor.to(device, dtype)

    return mapped(value, move)


def called_like(
    module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], dtype: torch.dtype
) -> Any:
    """What a module makes of arguments that were another one's, in its own dtype and on its device.

    A layer that is kept wider than its model (a norm, a router) is called in its weights' dtype.
    """
    tensors = [*module.parameters(), *module.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    own = {t.dtype for t in tensors if type(t.data) is torch.Tensor and t.dtype.is_floating_point}
    try:
        return module(*moved(arguments, dtype, device), **moved(keywords, dtype, device))
    except RuntimeError:
        if len(own) != 1 or dtype in own:
            raise
        wider = own.pop()
        return module(*moved(arguments, wider, device), **moved(keywords, wider, device))


@contextmanager
def computing_with(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Each module computes with the given function in place of its forward, inside the block."""
    # Where somebody else set it, accelerate's hooks for one, it is an attribute of the instance.
    own: dict[nn.Module, Any] = {module: vars(module).get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, before in own.items():
            if before is None:
                del module.forward
            else:
                module.forward = before


def copied(value: Any) -> Any:
    """The value with copies of its tensors, detached."""
    return mapped(value, lambda tensor: tensor.detach().clone())


@contextmanager
def rounded_once_more(model: nn.Module, seed: int | None = None) -> Iterator[None]:
    """Every output of a module without modules inside is `nudged`, inside the block."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    handles = [
        module.register_forward_hook(lambda _, args, output: nudged(output, generator))
        for module in model.modules()
        if next(module.children(), None) is None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def nudged(value: Any, generator: torch.Generator | None = None) -> Any:
    """The value with each floating-point number larger or smaller by one rounding unit of its
    dtype, which of the two by ``generator``, or by a seed of the tensor's own. Numbers at the edge
    of the dtype, as in masks, stay."""
    return mapped(value, lambda tensor: _nudged(tensor, generator))


def _nudged(tensor: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    limits = torch.finfo(tensor.dtype)
    generator = generator or torch.Generator().manual_seed(tensor.numel())
    signs = torch.randint(0, 2, tensor.shape, generator=generator).to(tensor.device) * 2 - 1
    changed = tensor * (1 + limits.eps * signs.to(tensor.dtype))
    return torch.where(tensor.abs() < limits.max / 4, changed, tensor)


def mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The value with what ``change`` makes of each of its tensors."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(mapped(inner, change) for inner in value)
    if isinstance(value, Mapping):  # a dictionary, or an output of transformers
        made = {key: mapped(inner, change) for key, inner in value.items()}
        return made if type(value) is dict else type(value)(**made)
    return value
