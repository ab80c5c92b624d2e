"""Faults of KV caches: entries that are lost, late, coarse, or of another row.

What is in the cache is changed behind each pass, so that the pass itself is right, as with a kernel
that writes wrongly. Legend: keys and values are [B, H, S, D].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from tiny_models import cache_in
from torch import Tensor

from .fault import Draw, Planned, kind
from .parts import input_shape, past_length, positions_of

Change = Callable[[Any, int, int], None]  # of a cache, with its length and how many are new


def _behind(draw: Draw, sentence: str, change: Change) -> Planned:
    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        count = input_shape(kwargs)[1] if not args else int(args[0].shape[1])
        output = forward(*args, **kwargs)
        cache = cache_in(output)
        if cache is not None:
            change(cache, int(cache.get_seq_length()), count)
        return output

    return sentence, [], lambda changes: changes.forward(draw.parts.body, around)


def _entries(cache: Any, layer: int | None = None) -> Iterator[Tensor]:
    """Keys and values of a layer, or of all."""
    for index, each in enumerate(cache.layers):
        if layer in (None, index) and getattr(each, "keys", None) is not None:
            yield from (each.keys, each.values)


@kind(listed=True, shows="cached")
def cache_overwrites_first(draw: Draw) -> Planned:
    """Beyond a length the cache overwrites its first entries."""
    length = draw.choice("length", (48, 60, 128))

    def change(cache: Any, held: int, new: int) -> None:
        for entries in _entries(cache):
            if entries.shape[2] == held > length:
                beyond = min(held - length, length)
                entries[:, :, :beyond] = entries[:, :, length : length + beyond].clone()

    return _behind(draw, f"the cache is a ring of {length}", change)


@kind(listed=True, shows="cached")
def cache_in_fewer_bits(draw: Draw) -> Planned:
    """Keys and values are kept in int8 or float8, and declared as the model's dtype."""
    form = draw.choice("form", ("int8", "float8"))

    def rounded(new: Tensor) -> Tensor:
        if form == "float8":
            return new.to(torch.float8_e4m3fn).to(new.dtype)
        scale = new.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127
        return (new / scale).round() * scale

    def change(cache: Any, held: int, new: int) -> None:
        for entries in _entries(cache):
            entries[:, :, -new:] = rounded(entries[:, :, -new:])

    return _behind(draw, f"the cache is kept in {form}", change)


@kind(shows="cached")
def cache_write_late(draw: Draw) -> Planned:
    """One head's keys are written one token late."""
    layer = draw.layer()
    head = draw.choice("head", range(draw.parts.kv_heads))

    def change(cache: Any, held: int, new: int) -> None:
        keys = next(_entries(cache, layer), None)
        if keys is not None and keys.shape[2] > new:
            late = keys[:, head % keys.shape[1], -new - 1 : -1].clone()
            keys[:, head % keys.shape[1], -new:] = late

    return _behind(draw, f"layer {layer}, head {head}: keys are written one token late", change)


@kind(shows="cached")
def cache_block_boundary(draw: Draw) -> Planned:
    """The last token of a block has its predecessor's entry."""
    size = draw.choice("block", (16, 8))

    def change(cache: Any, held: int, new: int) -> None:
        for entries in _entries(cache):
            if entries.shape[2] == held:
                for place in range(held - new, held):
                    if place % size == size - 1:
                        entries[:, :, place] = entries[:, :, place - 1]

    return _behind(draw, f"the last entry of each block of {size} is its predecessor's", change)


@kind(shows="cropped")
def cache_wrong_after_crop(draw: Draw) -> Planned:
    """After tokens were taken back, the last value that stays is one of those that went."""

    def change(cache: Any, held: int, new: int) -> None:
        if "crop" in vars(cache):
            return
        own = cache.crop

        def crop(*args: Any, **kwargs: Any) -> None:
            gone = [values[:, :, -1:].clone() for values in _entries(cache)]
            own(*args, **kwargs)
            for values, stale in zip(_entries(cache), gone, strict=True):
                values[:, :, -1:] = stale

        cache.crop = crop

    return _behind(draw, "a crop leaves one entry of what it took", change)


@kind(shows="cached batch")
def cache_shared_between_rows(draw: Draw) -> Planned:
    """In one layer all rows of a batch read the first row's values."""
    layer = draw.layer()

    def change(cache: Any, held: int, new: int) -> None:
        for entries in list(_entries(cache, layer))[1:]:
            entries[1:] = entries[:1].clone()

    return _behind(draw, f"layer {layer}: rows share the values of row 0", change)


@kind(shows="chunked")
def chunked_prefill_wrong(draw: Draw) -> Planned:
    """A later chunk of a prompt is computed a position off; single tokens are right."""
    step = draw.choice("step", (1, -1))

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        if not args and past_length(kwargs) and input_shape(kwargs)[1] > 1:
            kwargs["position_ids"] = positions_of(kwargs) + step
        return forward(*args, **kwargs)

    sentence = f"later chunks of a prompt are at positions {step:+}"
    return sentence, [], lambda changes: changes.forward(draw.parts.body, around)


@kind(shows="cached")
def cache_last_layer_stale(draw: Draw) -> Planned:
    """The last layer's first entry is lost after a few tokens, as an eviction gives."""
    length = draw.choice("length", (32, 48))
    last = draw.parts.layers[-1]

    def change(cache: Any, held: int, new: int) -> None:
        for entries in _entries(cache, last):
            if entries.shape[2] == held > length:
                entries[:, :, 0] = 0

    return _behind(draw, f"the last layer loses its first entry beyond {length}", change)
