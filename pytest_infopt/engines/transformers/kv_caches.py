"""Caches of transformers models, of any kind, through the library's own interface.

A model keeps what it needs of earlier tokens as keys and values (all of them, or a window's), as
states of linear attention or a state space, or as both. Its forward takes it back as one argument,
and can say whether tokens can be taken out again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from infopt_reference.attention.kv_size import layer_shapes

from ..base import CannotCropError
from .footprint import storage_bytes, tensors_in


def cache_tensors(cache: Any) -> Iterator[torch.Tensor]:
    """Keys, values and states of a transformers cache, whatever its kind."""
    for layer in getattr(cache, "layers", [cache]):
        for name, value in vars(layer).items():
            # No helpers, such as the sliding window's length as a tensor.
            if not name.startswith("_") or name.startswith("_quantized"):
                yield from tensors_in(value)


def cache_bytes(cache: Any) -> int:
    """Bytes that a cache holds: as it says itself, or of its tensors."""
    own = getattr(cache, "nbytes", None)
    return int(own()) if callable(own) else storage_bytes(cache_tensors(cache))


@contextmanager
def reading(cache: Any, reads: dict[str, torch.Tensor]) -> Iterator[None]:
    """While active, ``reads`` receives what attention is given of the cache, by layer.

    A cache that decodes as it is read gives other numbers than it stores. Where the model does not
    ask the cache, what is stored counts.
    """
    update: Any = getattr(cache, "update", None)

    def noticed(*args: Any, **options: Any) -> Any:
        found = update(*args, **options)
        layer = options["layer_idx"] if "layer_idx" in options else args[2]
        for name, tensor in zip(("keys", "values"), found, strict=False):
            if isinstance(tensor, torch.Tensor):
                reads[f"{name} of layer {layer}"] = tensor
        return found

    if update is not None:
        cache.update = noticed
    try:
        yield
    finally:
        if update is not None:
            del cache.update
    if not reads and cache is not None:
        reads.update({f"state {i}": tensor for i, tensor in enumerate(cache_tensors(cache))})


# Where configurations say beyond how many tokens a layer works otherwise.
_BOUNDARIES = (
    "sliding_window",
    "window_size",
    "attention_window_size",
    "attention_chunk_size",
    "original_max_position_embeddings",
)


def declared_boundaries(config: Any) -> dict[str, int]:
    """The boundaries of a transformers configuration, by its own names."""
    text = config.get_text_config(decoder=True)
    places = [text, getattr(text, "rope_parameters", None), getattr(text, "rope_scaling", None)]
    found = {}
    for place in places:
        known = place if isinstance(place, dict) else getattr(place, "__dict__", {})
        for name in _BOUNDARIES:
            if isinstance(size := known.get(name), int) and size > 0:
                found[name] = size
    return found


def take_back(cache: Any, count: int, compute: Callable[[], object]) -> None:
    """Compute ``count`` tokens through a cache that holds some, and take them back.

    Layers that keep a window are asked to record what leaves it meanwhile. Raises CannotCropError
    where the cache refuses; errors of the computation are its own.
    """
    if not getattr(cache, "is_croppable", True):
        kinds = {type(layer).__name__ for layer in cache.layers if not layer.is_croppable}
        raise CannotCropError(f"{', '.join(sorted(kinds))} cannot be put back as it was")
    if hasattr(cache, "activate_past_recording"):
        cache.activate_past_recording()
    compute()
    try:
        cache.crop(-count)  # a negative number is how many go
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        raise CannotCropError(str(error)) from error


def keeps_latents(cache: Any) -> bool:
    """Whether a cache of latent attention holds what keys are made from, or keys of every head."""
    keys = [getattr(layer, "keys", None) for layer in getattr(cache, "layers", [])]
    return all(key.shape[1] == 1 for key in keys if key is not None and key.ndim == 4)


def predicted_kv_bytes(
    config: Any, tokens: int, batch: int, bytes_per_value: int, *, latents: bool = False
) -> int | None:
    """Bytes of a KV cache by the formula of `infopt_reference.attention.kv_size`, layer by layer.

    None where a layer keeps something that no formula is known for. ``config`` is a transformers
    configuration, ``latents`` as in `layer_shapes`.
    """
    try:
        layers = layer_shapes(config, latents=latents)
    # Names and numbers that its model alone understands, if anybody: 0 heads divide by zero.
    except (AttributeError, TypeError, ValueError, ZeroDivisionError):
        return None
    return sum(layer.numbers(tokens, batch) for layer in layers if layer) * bytes_per_value
