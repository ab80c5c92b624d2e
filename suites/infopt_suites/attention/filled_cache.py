"""A KV cache with a record beside it of everything that was written into it.

Legend: B batch, T new tokens, S tokens, G kv heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor

from .cache_cases import CacheCase
from .cache_protocol import (
    CacheGeometry,
    KVCache,
    MakeCache,
    MaskedCache,
    PlacedCache,
    ReadableCache,
)


class CacheContract(Protocol):
    """What the suite's class declares."""

    capabilities: ClassVar[Collection[str]]
    dtype: ClassVar[torch.dtype]
    device: ClassVar[str]
    head_dim: ClassVar[int]
    bits: ClassVar[int]
    float_codes: ClassVar[torch.dtype | None]
    chunks_within_window: ClassVar[bool]


def geometry_of(suite: CacheContract, case: CacheCase, spare: int) -> CacheGeometry:
    """What a case asks for, with room for ``spare`` tokens more."""
    return CacheGeometry(
        layers=case.layers,
        batch=case.batch,
        kv_heads=case.kv_heads,
        head_dim=suite.head_dim,
        capacity=sum(case.chunks) + spare,
        window=case.window,
        dtype=suite.dtype,
        device=suite.device,
    )


class Filled:
    """A cache, and everything that was written into it."""

    def __init__(
        self, suite: CacheContract, make_cache: MakeCache, case: CacheCase, spare: int = 4
    ) -> None:
        self.suite, self.make, self.case = suite, make_cache, case
        self.geometry = geometry_of(suite, case, spare)
        self.cache: KVCache = self._made()
        self.generator = torch.Generator().manual_seed(11)
        self.batch = case.batch
        self.forget()

    def forget(self) -> None:
        """What a cache without tokens holds."""
        empty = torch.zeros(self.batch, self.case.kv_heads, 0, self.suite.head_dim)
        empty = empty.to(self.suite.device, self.suite.dtype)
        self.truth: list[tuple[Tensor, Tensor]] = [(empty, empty)] * self.case.layers

    def fill(self) -> None:
        """Write what the case says."""
        for count in self.case.chunks:
            self.step(count)

    def of(self, case: CacheCase) -> Filled:
        """Another cache, with what this case says. What its updates give back is not looked at:
        that is another property, and takes longer than what is asked of it then."""
        other = Filled(self.suite, self.make, case)
        for count in case.chunks:
            other.step(count, checked=False)
        return other

    @property
    def length(self) -> int:
        return self.truth[-1][0].shape[2]

    def draw(self, count: int, size: float = 1.0) -> list[tuple[Tensor, Tensor]]:
        """New tokens for each layer: keys and values [B, G, count, D], no number twice."""
        shape = self.batch, self.case.kv_heads, count, self.suite.head_dim

        def numbers() -> Tensor:
            drawn = torch.randn(shape, generator=self.generator) * size
            return drawn.to(self.suite.device, self.suite.dtype)

        return [(numbers(), numbers()) for _ in range(self.case.layers)]

    def step(
        self, count: int, size: float = 1.0, *, checked: bool = True
    ) -> list[tuple[Tensor, Tensor]]:
        """Write ``count`` tokens into each layer and check what comes back, the last time."""
        most = self.case.window if self.suite.chunks_within_window else None
        while most is not None and count > most:
            self.step(most, size, checked=checked)
            count -= most
        write = self.write if checked else self._put
        return [write(layer, tokens) for layer, tokens in enumerate(self.draw(count, size))]

    def write(self, layer: int, tokens: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Write tokens into a layer; raise AssertionError unless all that is needed comes back."""
        count = tokens[0].shape[2]
        offset = None
        if "mask-sizes" in self.suite.capabilities:
            _, offset = cast(MaskedCache, self.cache).get_mask_sizes(count, layer)
        returned = self._put(layer, tokens)
        length = self.truth[layer][0].shape[2]
        held, first = self._in_order(returned, offset, layer)
        oldest = self.oldest_needed(count, layer)
        assert first <= oldest, (
            f"{count} tokens after {length - count} see those from {oldest} on, and update gave "
            f"those from {first} on{self._hint_of_window()}"
        )
        self.compare(layer, held, first, f"{count} after {length - count} in layer {layer}")
        return returned

    def _put(self, layer: int, tokens: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        (keys, values), (new_keys, new_values) = self.truth[layer], tokens
        self.truth[layer] = torch.cat([keys, new_keys], 2), torch.cat([values, new_values], 2)
        return self.cache.update(*tokens, layer)

    def oldest_needed(self, count: int, layer: int) -> int:
        """The first token that one of the newest ``count`` sees."""
        if self.case.window is None:
            return 0
        return max(self.truth[layer][0].shape[2] - count - self.case.window + 1, 0)

    def check_state(self) -> None:
        """Raise AssertionError unless everything that can be read between updates is right."""
        for layer in range(self.case.layers):
            self.check_length(layer)
            if "mask-sizes" in self.suite.capabilities:
                self._check_mask_sizes(layer)
            if "logical" in self.suite.capabilities and self.length:
                self.check_stored(layer)

    def check_length(self, layer: int, length: int | None = None) -> None:
        length = self.length if length is None else length
        found = self.cache.get_seq_length(layer)
        assert found == length, f"get_seq_length({layer}) is {found} after {length} tokens"

    def check_stored(self, layer: int) -> None:
        """Raise AssertionError unless what is stored is what was written, as far as it is seen."""
        stored = cast(ReadableCache, self.cache).logical_kv(layer)
        width = stored[0].shape[2]
        # The next query sees itself, and window − 1 tokens before it.
        window = self.case.window
        needed = self.length if window is None else min(self.length, window - 1)
        assert needed <= width <= self.length, (
            f"{width} tokens are stored in layer {layer}; {self.length} were written, {needed} of "
            f"them can be seen"
        )
        self.compare(layer, stored, self.length - width, f"stored in layer {layer}")

    def compare(self, layer: int, found: Sequence[Tensor], offset: int, what: str) -> None:
        for name, tensor, written in zip(("keys", "values"), found, self.truth[layer], strict=True):
            self.require_same(tensor, written[:, :, offset:], written, f"{name}, {what}")

    def keep_tokens(self, count: int) -> None:
        self.truth = [(keys[:, :, :count], values[:, :, :count]) for keys, values in self.truth]

    def drop_tokens(self, start: int, stop: int) -> None:
        kept = [index for index in range(self.length) if not start <= index < stop]
        self.truth = [(keys[:, :, kept], values[:, :, kept]) for keys, values in self.truth]

    def gather_rows(self, rows: Sequence[int]) -> None:
        self.batch = len(rows)
        self.truth = [(keys[list(rows)], values[list(rows)]) for keys, values in self.truth]

    def bytes_for(self, tokens: int) -> int:
        """Keys and values of so many tokens, kept as they are."""
        geometry = self.geometry
        numbers = geometry.layers * geometry.batch * geometry.kv_heads * geometry.head_dim
        return 2 * numbers * tokens * geometry.dtype.itemsize

    def require_same(self, found: Tensor, written: Tensor, seen: Tensor, what: str) -> None:
        """Raise AssertionError unless tokens came back: exactly, or within a step of their bits."""
        assert found.shape == written.shape, f"{what}: {list(found.shape)}, {list(written.shape)}"
        assert found.dtype is written.dtype, f"{what}: {found.dtype}"
        if "quantized" not in self.suite.capabilities:
            same = found == written
            assert bool(same.all()), f"{what}: {int((~same).sum())} of {same.numel()} differ"
            return
        largest = seen.abs().double().amax((1, 2, 3), keepdim=True)
        allowed = rounding_of_codes(written, largest, self.suite)
        excess = (found.double() - written.double()).abs() - allowed
        assert bool((excess <= 0).all()), f"{what}: off by {excess.max():.6g} more than a step"

    def _made(self) -> KVCache:
        try:
            return self.make(self.geometry)
        except Exception as error:
            error.add_note(f"make_cache was called with {self.geometry}{self._hint_of_window()}")
            raise

    def _hint_of_window(self) -> str:
        if self.case.window is not None or "full" in self.suite.capabilities:
            return ""
        return '; without a window: a cache that always has one claims "window", and not "full"'

    def _in_order(
        self, returned: Sequence[Tensor], offset: int | None, layer: int
    ) -> tuple[list[Tensor], int]:
        """The columns that hold tokens, in their order, and the first of these tokens."""
        length, width = self.truth[layer][0].shape[2], returned[0].shape[2]
        if "positions" in self.suite.capabilities:
            places = cast(PlacedCache, self.cache).key_positions(layer).tolist()
            assert len(places) == width, f"{len(places)} key_positions for {width} columns"
            order = sorted((i for i in range(width) if places[i] >= 0), key=places.__getitem__)
            tokens = [places[i] for i in order]
            assert tokens == [*range(length - len(tokens), length)], (
                f"columns hold the tokens {tokens}, and {length} were written"
            )
            return [x[:, :, order] for x in returned], length - len(tokens)
        offset = length - width if offset is None else offset
        assert offset >= 0, (
            f"update gave {width} columns for {length} tokens; a cache that gives more than there "
            f'are claims "mask-sizes", whose get_mask_sizes says which token the first column is'
        )
        return [x[:, :, : length - offset] for x in returned], offset

    def _check_mask_sizes(self, layer: int) -> None:
        if self.length == self.geometry.capacity:
            return  # there is no next token
        width, offset = cast(MaskedCache, self.cache).get_mask_sizes(1, layer)
        window = self.case.window
        oldest = 0 if window is None else max(self.length - window + 1, 0)
        assert 0 <= offset <= oldest, f"get_mask_sizes begins at {offset}, not {oldest} or before"
        assert offset + width > self.length, (
            f"get_mask_sizes says {width} columns from {offset} on for token {self.length}"
        )


class Rounded(Protocol):
    """What a class of a suite declares of the codes to which numbers are rounded."""

    dtype: ClassVar[torch.dtype]
    bits: ClassVar[int]
    float_codes: ClassVar[torch.dtype | None]


def rounding_of_codes(written: Tensor, largest: Tensor, declared: Rounded) -> Tensor:
    """How far each number may be from its code, where ``largest`` is the largest magnitude.

    Codes of a floating-point dtype are off by half their eps relatively, and below their smallest
    normal number by half a subnormal step; a scale brings the largest number to between half their
    maximum and all of it.
    """
    if declared.float_codes is None:
        return largest * step_of_codes(declared.bits, declared.dtype)
    codes = torch.finfo(declared.float_codes)
    subnormal = codes.tiny * codes.eps / codes.max
    rounded = largest * (subnormal + 4 * torch.finfo(declared.dtype).eps)
    return written.abs().double() * codes.eps / 2 + rounded


def step_of_codes(bits: int, dtype: torch.dtype) -> float:
    """How far a number may be from its code, as a share of the largest magnitude.

    A group spans at most twice the largest magnitude, in 2^bits − 2 steps at least; half a step is
    lost in rounding, half in a zero point's. Constants and product are rounded to the dtype.
    """
    return 2 / (2.0**bits - 2) + 4 * torch.finfo(dtype).eps
