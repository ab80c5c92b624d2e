"""PagedKVSuite accepts the reference; its rows are a KV cache like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from infopt_reference.attention.kv_size import KVShape
from infopt_reference.attention.paged import PagedKVCache, PagedRows
from infopt_suites.attention import (
    CacheGeometry,
    KVCacheSuite,
    MakeCache,
    PagedGeometry,
    PagedKVSuite,
)
from torch import Tensor


class Reference:
    """`PagedKVCache` as the suites' protocol."""

    def __init__(self, geometry: PagedGeometry) -> None:
        self.geometry = geometry
        shape = KVShape(geometry.layers, geometry.kv_heads, geometry.head_dim)
        self.pages = PagedKVCache(
            shape, geometry.num_blocks, geometry.block_size, dtype=geometry.dtype
        )

    @property
    def num_free_blocks(self) -> int:
        return self.pages.num_free_blocks

    def block_table(self, sequence: int) -> Sequence[int]:
        return self.pages.block_table(sequence)

    def references(self, block: int) -> int:
        return self.pages.pool.references(block)

    def pool(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.pages.keys[layer], self.pages.values[layer]

    def allocate(self, sequence: int) -> None:
        self.pages.allocate(sequence)

    def can_append(self, sequence: int, num_tokens: int) -> bool:
        return self.pages.can_append(sequence, num_tokens)

    def append(self, sequence: int, keys: Tensor, values: Tensor) -> None:
        start = self.pages.num_tokens(sequence)
        self.pages.append(sequence, keys.shape[2])
        for layer in range(self.geometry.layers):
            self.pages.write(sequence, layer, start, keys[layer], values[layer])

    def fork(self, parent: int, child: int) -> None:
        self.pages.fork(parent, child)

    def truncate(self, sequence: int, length: int) -> None:
        self.pages.truncate(sequence, length)

    def free(self, sequence: int) -> None:
        self.pages.free(sequence)

    def read(self, sequence: int, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = self.pages.gather([sequence], layer, self.pages.num_tokens(sequence))
        return keys[0], values[0]

    def attend(self, sequences: Sequence[int], queries: Tensor, layer: int) -> Tensor:
        rows = zip(queries, sequences, strict=True)
        return torch.stack([self.pages.attend(row, sequence, layer) for row, sequence in rows])


class TestReference(PagedKVSuite):
    capabilities = frozenset({"references", "pool", "attend"})

    @pytest.fixture
    def make_paged_kv(self) -> type[Reference]:
        return Reference


class Quantized(Reference):
    """4 bits a number, with a scale and a lowest number for each token and head, in blocks too."""

    def __init__(self, geometry: PagedGeometry) -> None:
        super().__init__(replace(geometry, dtype=torch.bfloat16))  # whole numbers to 256
        self.dtype = geometry.dtype
        constants = KVShape(geometry.layers, geometry.kv_heads, 2)
        self.constants = PagedKVCache(
            constants, geometry.num_blocks, geometry.block_size, dtype=geometry.dtype
        )

    def allocate(self, sequence: int) -> None:
        super().allocate(sequence)
        self.constants.allocate(sequence)

    def append(self, sequence: int, keys: Tensor, values: Tensor) -> None:
        start = self.pages.num_tokens(sequence)
        of_keys, of_values = (
            torch.stack([x.amin(-1), x.amax(-1)], dim=-1) if x.numel() else x[..., :2]
            for x in (keys, values)
        )
        codes = [encoded(x, ends) for x, ends in ((keys, of_keys), (values, of_values))]
        super().append(sequence, *codes)
        self.constants.append(sequence, keys.shape[2])
        for layer in range(self.geometry.layers):
            self.constants.write(sequence, layer, start, of_keys[layer], of_values[layer])

    def fork(self, parent: int, child: int) -> None:
        super().fork(parent, child)
        self.constants.fork(parent, child)

    def truncate(self, sequence: int, length: int) -> None:
        super().truncate(sequence, length)
        self.constants.truncate(sequence, length)

    def free(self, sequence: int) -> None:
        super().free(sequence)
        self.constants.free(sequence)

    def read(self, sequence: int, layer: int) -> tuple[Tensor, Tensor]:
        codes = super().read(sequence, layer)
        ends = self.constants.gather([sequence], layer, self.pages.num_tokens(sequence))
        return decoded(codes[0], ends[0][0]), decoded(codes[1], ends[1][0])


def encoded(numbers: Tensor, ends: Tensor) -> Tensor:
    """Codes 0…15 between the lowest and the highest number of each row."""
    low, high = ends[..., :1], ends[..., 1:]
    step = ((high - low) / 15).masked_fill(high == low, 1.0)
    return ((numbers - low) / step).round().clamp(0, 15).to(torch.bfloat16)


def decoded(codes: Tensor, ends: Tensor) -> Tensor:
    low, high = ends[..., :1], ends[..., 1:]
    return low + codes.to(ends.dtype) * (high - low) / 15


class TestQuantizedReference(PagedKVSuite):
    capabilities = frozenset({"references", "quantized"})
    bits, head_dim = 4, 8

    @pytest.fixture
    def make_paged_kv(self) -> type[Quantized]:
        return Quantized


def rows(geometry: CacheGeometry) -> PagedRows:
    """Rows of a cache in blocks of three tokens, with room for the copies of forks."""
    shape = KVShape(geometry.layers, geometry.kv_heads, geometry.head_dim)
    return PagedRows(PagedKVCache(shape, 400, 3, dtype=geometry.dtype))


class TestRows(KVCacheSuite):
    capabilities = frozenset({"crop", "reorder", "reset", "logical"})

    @pytest.fixture
    def make_cache(self) -> MakeCache:
        return rows
