"""PagedKVSuite accepts the reference; its rows are a KV cache like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from infopt_reference.attention.kv_size import KVShape
from infopt_reference.attention.paged import PagedKVCache, PagedRows
from infopt_reference.attention.prefix_cache import PrefixCache
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
    """Codes of each token and head behind their lowest number and step, in the same blocks, and a
    `PrefixCache` over them."""

    highest = 15

    def __init__(self, geometry: PagedGeometry) -> None:
        super().__init__(replace(geometry, head_dim=2 + geometry.head_dim))
        self.prefixes = PrefixCache(self.pages.pool, geometry.block_size)

    @property
    def num_free_blocks(self) -> int:
        return super().num_free_blocks + self.prefixes.num_evictable

    def references(self, block: int) -> int:
        return super().references(block) - (block in self.prefixes.blocks)

    def can_append(self, sequence: int, num_tokens: int) -> bool:
        while not super().can_append(sequence, num_tokens):
            if not self.prefixes.evict(1):
                return False
        return True

    def append(self, sequence: int, keys: Tensor, values: Tensor) -> None:
        self.can_append(sequence, keys.shape[2])
        super().append(sequence, self.encoded(keys), self.encoded(values))

    def remember(self, sequence: int, token_ids: Sequence[int]) -> None:
        table = self.block_table(sequence)
        for index, block in enumerate(self.prefixes.insert(token_ids, table)):
            self.pages.replace(sequence, index, block)

    def allocate_known(self, sequence: int, token_ids: Sequence[int]) -> int:
        match = self.prefixes.match(token_ids)
        self.pages.allocate(sequence, match.num_tokens, match.blocks)
        return match.num_tokens

    def read(self, sequence: int, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = super().read(sequence, layer)
        return self.decoded(keys), self.decoded(values)

    def encoded(self, numbers: Tensor) -> Tensor:
        if not numbers.numel():
            return numbers.new_empty((*numbers.shape[:-1], 2 + numbers.shape[-1]))
        low, high = numbers.amin(-1, keepdim=True), numbers.amax(-1, keepdim=True)
        step = (high - low) / self.highest
        codes = ((numbers - low) / step.masked_fill(step == 0, 1.0)).round()
        return torch.cat([low, step, codes], dim=-1)

    def decoded(self, stored: Tensor) -> Tensor:
        return stored[..., :1] + stored[..., 1:2] * stored[..., 2:]


class QuantizedToEightBits(Quantized):
    highest = 255


class QuantizedToFloat8(Quantized):
    """Without a lowest number."""

    def encoded(self, numbers: Tensor) -> Tensor:
        if not numbers.numel():
            return super().encoded(numbers)
        scale = numbers.abs().amax(-1, keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
        codes = (numbers / scale).to(torch.float8_e4m3fn).to(numbers.dtype)
        return torch.cat([torch.zeros_like(scale), scale, codes], dim=-1)


class TestQuantizedReference(PagedKVSuite):
    capabilities = frozenset({"references", "quantized", "prefixes"})
    bits, head_dim = 4, 8

    @pytest.fixture
    def make_paged_kv(self) -> type[Quantized]:
        return Quantized


class TestReferenceInEightBits(PagedKVSuite):
    capabilities = frozenset({"references", "quantized", "prefixes"})
    examples, head_dim = 10, 8

    @pytest.fixture
    def make_paged_kv(self) -> type[Quantized]:
        return QuantizedToEightBits


class TestReferenceInFloat8(PagedKVSuite):
    capabilities = frozenset({"references", "quantized", "prefixes"})
    float_codes = torch.float8_e4m3fn
    examples = 10

    @pytest.fixture
    def make_paged_kv(self) -> type[Quantized]:
        return QuantizedToFloat8


def rows(geometry: CacheGeometry) -> PagedRows:
    """Rows of a cache in blocks of three tokens, with room for the copies of forks."""
    shape = KVShape(geometry.layers, geometry.kv_heads, geometry.head_dim)
    return PagedRows(PagedKVCache(shape, 400, 3, dtype=geometry.dtype))


class TestRows(KVCacheSuite):
    capabilities = frozenset({"crop", "reorder", "reset", "logical"})

    @pytest.fixture
    def make_cache(self) -> MakeCache:
        return rows
