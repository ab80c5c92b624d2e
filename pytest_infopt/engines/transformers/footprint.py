"""Bytes that a model and its KV cache really hold, counted by storage.

`PreTrainedModel.get_memory_footprint` trusts a tensor subclass's outer dtype and reports the
float32 size of a torchao or quanto model; here subclasses are flattened to the tensors inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ..base import StoredWeights

__all__ = [
    "derived_buffers",
    "noting_states",
    "storage_bytes",
    "stored_weights",
    "tensors_in",
    "weight_tensors",
]

# By module: its attributes in which each pass leaves what it came to, for the next one.
_STATES: WeakKeyDictionary[torch.nn.Module, frozenset[str]] = WeakKeyDictionary()


@contextmanager
def noting_states(module: torch.nn.Module) -> Iterator[None]:
    """While a pass is run that is not the first: note what it changes, which is no weight.

    RecurrentGemma keeps states in its layers, as large as the batch that it had last.
    """
    before = {part: _tensor_attributes(part) for part in module.modules()}
    yield
    for part, held in before.items():
        now = _tensor_attributes(part)
        _STATES[part] = frozenset(
            name for name, value in now.items() if value is not held.get(name)
        )


def _tensor_attributes(part: torch.nn.Module) -> dict[str, Any]:
    return {name: v for name, v in vars(part).items() if isinstance(v, torch.Tensor)}


def storage_bytes(tensors: Iterable[torch.Tensor], seen: set[tuple[str, int]] | None = None) -> int:
    """Bytes of the distinct storages behind tensors; ``seen`` ones are skipped, new ones added.

    Tied weights and views share a storage and count once. Meta tensors hold nothing.
    """
    known: set[tuple[str, int]] = set() if seen is None else seen
    total = 0
    for tensor in tensors:
        for plain in _flatten(tensor):
            if plain.device.type == "meta":
                continue
            storage = plain.untyped_storage()
            key = (str(plain.device), storage.data_ptr())
            if storage.nbytes() and key not in known:
                known.add(key)
                total += storage.nbytes()
    return total


def weight_tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Parameters and quantization constants: all that a checkpoint of the model has to hold.

    Besides parameters: tensors that hang on them (bitsandbytes' ``quant_state``, ``CB``, ``SCB``)
    or on their modules, and persistent buffers, where quantized layers keep codes and scales.
    States that passes leave behind are none (`noting_states`).
    """
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            yield from tensors_in(parameter)
        derived = part._non_persistent_buffers_set
        for name, buffer in part.named_buffers(recurse=False):
            if name not in derived:
                yield from tensors_in(buffer)
        states = _STATES.get(part, frozenset())
        for name, value in vars(part).items():
            if name not in ("_parameters", "_buffers", "_modules") and name not in states:
                yield from tensors_in(value)


def stored_weights(module: torch.nn.Module) -> StoredWeights:
    """What the weights are kept as. Tied ones count once; so do views of one storage."""
    floats: dict[int, int] = {}  # by bits
    codes: list[torch.Tensor] = []
    seen: set[tuple[str, int]] = set()
    for tensor in weight_tensors(module):
        for plain in _flatten(tensor):
            key = (str(plain.device), plain.untyped_storage().data_ptr())
            if key in seen:
                continue
            seen.add(key)
            if plain.is_floating_point() and plain.dtype.itemsize > 1:
                bits = 8 * plain.dtype.itemsize
                floats[bits] = floats.get(bits, 0) + plain.numel()
            elif plain.dim() > 1 or plain.numel() > 1:
                codes.append(plain)
    return StoredWeights(
        sum(floats.values()), max(floats, key=floats.__getitem__, default=16), storage_bytes(codes)
    )


def derived_buffers(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Buffers that follow from the configuration and are not saved: rotary frequencies, masks."""
    for part in module.modules():
        derived = part._non_persistent_buffers_set
        for name, buffer in part.named_buffers(recurse=False):
            if name in derived:
                yield buffer


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of a value: itself, what hangs on it, in containers, in bitsandbytes' states."""
    if isinstance(value, torch.Tensor):
        yield value
        for attached in vars(value).values() if hasattr(value, "__dict__") else ():
            yield from tensors_in(attached)
    elif isinstance(value, torch.nn.Module):
        return  # visited on its own; bitsandbytes' parameters point back at theirs
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif type(value).__module__.partition(".")[0] == "bitsandbytes" and hasattr(value, "__dict__"):
        for item in vars(value).values():
            yield from tensors_in(item)


def _flatten(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None or type(tensor) in (torch.Tensor, torch.nn.Parameter):
        yield tensor
        return
    for name in flatten()[0]:
        yield from _flatten(getattr(tensor, name))
