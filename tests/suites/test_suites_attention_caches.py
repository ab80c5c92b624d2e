"""KVCacheSuite accepts the reference's caches."""

from __future__ import annotations

import pytest
import torch
from infopt_reference.attention import KVCache, QuantizedCache, SlidingCache, StaticCache
from infopt_reference.quantization import Granularity, QuantizationScheme
from infopt_suites.attention import CacheGeometry, KVCacheSuite, MakeCache


class TestGrowingCache(KVCacheSuite):
    capabilities = frozenset({"crop", "reorder", "reset", "logical", "bytes"})

    @pytest.fixture
    def make_cache(self) -> MakeCache:
        return lambda geometry: KVCache()


class TestStaticCache(KVCacheSuite):
    capabilities = frozenset({"crop", "reorder", "reset", "logical", "bytes"})
    dtype = torch.bfloat16

    @pytest.fixture
    def make_cache(self) -> MakeCache:
        return lambda geometry: StaticCache(geometry.capacity)


def sliding(geometry: CacheGeometry) -> SlidingCache:
    assert geometry.window is not None
    return SlidingCache(geometry.window)


class TestSlidingCache(KVCacheSuite):
    capabilities = frozenset({"window", "crop", "reorder", "reset", "logical", "bytes"})

    @pytest.fixture
    def make_cache(self) -> MakeCache:
        return sliding


class OfQuantized(KVCacheSuite):
    capabilities = frozenset({"quantized", "crop", "reorder", "reset", "logical", "bytes"})
    head_dim = 32

    @pytest.fixture
    def make_cache(self) -> MakeCache:
        scheme = QuantizationScheme(
            self.bits, self.bits == 8, Granularity.GROUP, group_size=32, packed=self.bits < 8
        )
        return lambda geometry: QuantizedCache(scheme)


class TestQuantizedCacheOfEightBits(OfQuantized):
    bits = 8


class TestQuantizedCacheOfFourBits(OfQuantized):
    bits = 4
