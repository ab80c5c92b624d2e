"""KV caches: keys and values of the tokens so far, so that a step computes those of new ones only.

    cache.update(keys, values, layer)    stores T new tokens, gives the S that their queries may see

One interface, four ways to keep the numbers: growing (`KVCache`), in a buffer of a fixed length
(`StaticCache`), the last tokens alone (`SlidingCache`), as codes (`QuantizedCache`).

Contract. What is given back are the last S tokens in order, so column j is token
``get_seq_length() − S + j``; the caller's mask follows from that (`masks`). Inputs are copied, not
kept. `crop`, `drop`, `reorder` and `reset` leave the cache as if it had been filled that way at
once. Slots count alike in all rows: rows of different lengths are padded on the left, and whoever
attends knows where. All layers are given the same tokens.
Leaves out: rows of different lengths without padding (`paged`), moving to other devices.
Sources: Pope et al. 2022, "Efficiently scaling transformer inference", section 3.3; Beltagy et al.
2020, "Longformer" (window); Hooper et al. 2024, "KVQuant", and Liu et al. 2024, "KIVI" (codes).
Legend: B batch, T new tokens, S tokens held, G kv heads, D head dim.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..quantization import Granularity, QuantizationScheme, QuantizedTensor, quantize

Stored = tuple[Tensor, ...]  # of one layer: [B, G, S, …] each, keys and values at the least


class KVCache:
    """A cache that grows with every token. Layers need no declaration: they exist once updated."""

    def __init__(self) -> None:
        self._layers: dict[int, Stored] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Appends keys and values [B, G, T, D]; gives those of all tokens held, [B, G, S, D].

        Raises:
            ValueError: shapes of keys and values, or of new and stored ones, do not fit together.
        """
        self._check(keys, values, layer)
        if keys.shape[2]:
            self._layers[layer] = self._append(layer, self._encode(keys, values))
        return self.logical_kv(layer) if layer in self._layers else (keys, values)

    def logical_kv(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values [B, G, S, D] of the tokens held, in order; KeyError before any."""
        return self._decode(self._layers[layer])

    def get_seq_length(self, layer: int = 0) -> int:
        """Tokens that a layer was given, those included that have been dropped since."""
        return self.held_length(layer)

    def held_length(self, layer: int = 0) -> int:
        """Tokens that a layer holds."""
        return self._layers[layer][0].shape[2] if layer in self._layers else 0

    def rows(self, layer: int = 0) -> int:
        """Rows B of a layer; 0 before any token."""
        return self._layers[layer][0].shape[0] if layer in self._layers else 0

    def crop(self, length: int) -> None:
        """Forgets all but the first ``length`` tokens, in every layer.

        Raises:
            ValueError: a layer has had fewer tokens, or needs ones that it has dropped.
        """
        for layer in self._layers:
            if not 0 <= length <= self.get_seq_length(layer):
                raise ValueError(
                    f"{length} tokens cannot be kept of {self.get_seq_length(layer)}; give the "
                    f"number that remain, not the number to remove"
                )
        for layer in self._layers:
            kept = self.held_length(layer) - (self.get_seq_length(layer) - length)
            self._layers[layer] = self._first(self._layers[layer], kept)

    def drop(self, start: int, stop: int) -> None:
        """Forgets the tokens from ``start`` to ``stop`` − 1 in every layer; later ones move up.

        For a context that is full (context shift). Keys stay as they are: turn those that moved by
        `Rope.shift`.

        Raises:
            ValueError: a layer has not had these tokens, or has dropped others before.
        """
        for layer in self._layers:
            given, held = self.get_seq_length(layer), self.held_length(layer)
            if not 0 <= start <= stop <= held == given:
                raise ValueError(
                    f"tokens {start} to {stop - 1} cannot be dropped: {given} were given, {held} "
                    f"are held; give a range of the tokens of a cache that holds all"
                )
        for layer, stored in self._layers.items():
            self._layers[layer] = self._without(stored, start, stop)

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row ``rows[i]`` was: for beams, and to drop or repeat rows."""
        for layer, stored in self._layers.items():
            self._layers[layer] = tuple(x.index_select(0, rows.to(x.device)) for x in stored)

    def reset(self) -> None:
        """Forgets everything."""
        self._layers.clear()

    def nbytes(self) -> int:
        """Bytes of all tensors that are kept."""
        return sum(x.nbytes for stored in self._layers.values() for x in stored)

    # What the other caches do in their own way.

    def _encode(self, keys: Tensor, values: Tensor) -> Stored:
        return keys, values

    def _decode(self, stored: Stored) -> tuple[Tensor, Tensor]:
        keys, values = stored
        return keys, values

    def _append(self, layer: int, new: Stored) -> Stored:
        if layer not in self._layers:
            return tuple(x.clone() for x in new)
        return tuple(torch.cat(pair, dim=2) for pair in zip(self._layers[layer], new, strict=True))

    def _first(self, stored: Stored, length: int) -> Stored:
        # Copies: a view would keep the memory of what has been forgotten.
        return tuple(x[:, :, :length].clone() for x in stored)

    def _without(self, stored: Stored, start: int, stop: int) -> Stored:
        return tuple(torch.cat([x[:, :, :start], x[:, :, stop:]], dim=2) for x in stored)

    def _check(self, keys: Tensor, values: Tensor, layer: int) -> None:
        if keys.dim() != 4 or keys.shape[:3] != values.shape[:3]:
            raise ValueError(
                f"keys {tuple(keys.shape)} and values {tuple(values.shape)} do not fit; give "
                f"[batch, kv heads, tokens, head dim] of the same tokens"
            )
        if layer in self._layers and keys.shape[:2] != self._layers[layer][0].shape[:2]:
            held = tuple(self._layers[layer][0].shape[:2])
            raise ValueError(
                f"the cache holds {held} rows and kv heads, new keys have {tuple(keys.shape[:2])}; "
                f"use `reorder` to change the rows"
            )


class StaticCache(KVCache):
    """A cache in buffers of ``max_length`` tokens, allocated at a layer's first update.

    What `update` gives are views of the filled part of the buffers: unused slots are never read.

    Raises:
        ValueError: from `update`, when the buffer is too short; nothing is stored then.
    """

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length
        self._buffers: dict[int, Stored] = {}  # [B, G, max_length, D] each

    def _append(self, layer: int, new: Stored) -> Stored:
        start, end = self.held_length(layer), self.held_length(layer) + new[0].shape[2]
        if end > self.max_length:
            raise ValueError(
                f"{end} tokens do not fit a cache of {self.max_length}; make it longer"
            )
        if layer not in self._buffers:
            self._buffers[layer] = tuple(
                x.new_empty(*x.shape[:2], self.max_length, *x.shape[3:]) for x in new
            )
        for buffer, x in zip(self._buffers[layer], new, strict=True):
            buffer[:, :, start:end] = x
        return tuple(buffer[:, :, :end] for buffer in self._buffers[layer])

    def _first(self, stored: Stored, length: int) -> Stored:
        return tuple(x[:, :, :length] for x in stored)  # still the buffer, for the next to append

    def _without(self, stored: Stored, start: int, stop: int) -> Stored:
        for x in stored:
            x[:, :, start : x.shape[2] - stop + start] = x[:, :, stop:].clone()
        return self._first(stored, stored[0].shape[2] - stop + start)

    def reorder(self, rows: Tensor) -> None:
        for layer, buffers in self._buffers.items():
            length = self.held_length(layer)
            self._buffers[layer] = tuple(x.index_select(0, rows.to(x.device)) for x in buffers)
            self._layers[layer] = self._first(self._buffers[layer], length)

    def reset(self) -> None:
        super().reset()
        self._buffers.clear()

    def nbytes(self) -> int:
        return sum(x.nbytes for buffers in self._buffers.values() for x in buffers)


class SlidingCache(KVCache):
    """The last tokens alone, for attention with a sliding window.

    A query sees ``window`` tokens, its own included: between updates ``window`` − 1 are needed. So
    many are held, and ``slack`` more, that as many of the newest can be taken back by `crop` at any
    time (rejected drafts); without slack, only while nothing has been dropped.

    Raises:
        ValueError: ``window`` is below 1 or ``slack`` below 0.
    """

    def __init__(self, window: int, *, slack: int = 0) -> None:
        if window < 1 or slack < 0:
            raise ValueError(f"window {window} and slack {slack}: give at least 1 and 0")
        super().__init__()
        self.window, self.slack = window, slack
        self._dropped: dict[int, int] = {}  # tokens of each layer

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """As `KVCache.update`: the tokens held before and the new ones, S ≤ window − 1 + slack + T.

        A chunk's first query needs what its last one does not, so tokens are dropped afterwards.
        """
        everything = super().update(keys, values, layer)
        excess = self.held_length(layer) - (self.window - 1 + self.slack)
        if excess > 0:
            self._layers[layer] = tuple(x[:, :, excess:].clone() for x in self._layers[layer])
            self._dropped[layer] = self._dropped.get(layer, 0) + excess
        return everything

    def get_seq_length(self, layer: int = 0) -> int:
        return self._dropped.get(layer, 0) + self.held_length(layer)

    def crop(self, length: int) -> None:
        needed_from = max(0, length - (self.window - 1))
        for dropped in self._dropped.values():
            if dropped > needed_from:
                raise ValueError(
                    f"tokens {needed_from} to {dropped - 1} are gone, which a window of "
                    f"{self.window} needs after token {length - 1}; give slack=, the number to crop"
                )
        super().crop(length)

    def reset(self) -> None:
        super().reset()
        self._dropped.clear()


class QuantizedCache(KVCache):
    """Keys and values as codes, in groups along the head dimension of one token.

    Each token is quantized once, by itself: what is stored depends neither on the other tokens nor
    on the chunks in which they came, and old tokens' codes never change. `update` gives what is
    stored, of the new tokens too, in the dtype they came in; every number is within the scheme's
    bound (`QuantizedTensor.element_error_bound`). KIVI's keys share scales across tokens instead,
    which suits their outlier channels better and needs a residual of tokens not yet quantized.

    Raises:
        ValueError: the scheme has another granularity than groups, or double quantization, whose
            blocks would join tokens; from `update`, a token's codes do not fill whole bytes, or
            keys or values are not finite.
    """

    def __init__(self, scheme: QuantizationScheme) -> None:
        if scheme.granularity is not Granularity.GROUP or scheme.double_quantization:
            raise ValueError(
                f"the scheme is {scheme}; tokens are independent with plain groups alone: give "
                f"granularity='group' and no double quantization"
            )
        super().__init__()
        self.scheme = scheme
        self._dtype: torch.dtype | None = None

    def _encode(self, keys: Tensor, values: Tensor) -> Stored:
        self._dtype = keys.dtype
        return self._codes(keys) + self._codes(values)

    def _decode(self, stored: Stored) -> tuple[Tensor, Tensor]:
        constants = len(stored) // 2
        return self._numbers(*stored[:constants]), self._numbers(*stored[constants:])

    def _codes(self, numbers: Tensor) -> Stored:
        """Codes, scales and zero points, each [B, G, T, …]."""
        if numbers.shape[-1] * self.scheme.stored_bits % 8:
            raise ValueError(
                f"{numbers.shape[-1]} codes of {self.scheme.stored_bits} bits do not fill whole "
                f"bytes; use packed=False or another number of bits"
            )
        quantized = quantize(numbers, self.scheme)
        codes = quantized.codes.view(*numbers.shape[:3], -1)
        constants = (codes, quantized.stored_scales, quantized.zero_points)
        return tuple(x for x in constants if x is not None)

    def _numbers(self, codes: Tensor, scales: Tensor, zero_points: Tensor | None = None) -> Tensor:
        assert self._dtype is not None
        head_dim = codes.shape[-1] * 8 // self.scheme.stored_bits
        return QuantizedTensor(
            scheme=self.scheme,
            shape=torch.Size([*codes.shape[:3], head_dim]),
            dtype=self._dtype,
            codes=codes.reshape(-1),
            stored_scales=scales,
            zero_points=zero_points,
        ).dequantize()
