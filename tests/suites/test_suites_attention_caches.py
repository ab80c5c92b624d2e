"""KVCacheSuite accepts the reference's caches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from infopt_reference.attention import KVCache, QuantizedCache, SlidingCache, StaticCache
from infopt_reference.quantization import Granularity, QuantizationScheme
from infopt_suites.attention import CacheGeometry, KVCacheSuite, MakeCache
from torch import Tensor
from torch.nn import functional


class TestGrowingCache(KVCacheSuite):
    capabilities = frozenset({"crop", "drop", "reorder", "reset", "logical", "bytes"})

    @pytest.fixture
    def make_cache(self) -> MakeCache:
        return lambda geometry: KVCache()


class TestStaticCache(KVCacheSuite):
    capabilities = frozenset({"crop", "drop", "reorder", "reset", "logical", "bytes"})
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
    capabilities = frozenset({"quantized", "crop", "drop", "reorder", "reset", "logical", "bytes"})
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


def always_windowed(geometry: CacheGeometry) -> SlidingCache:
    if geometry.window is None:
        raise ValueError("a window is needed")
    return SlidingCache(geometry.window)


class FixedBuffer(KVCache):
    """Gives all columns of its buffer, also those behind the newest token."""

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        held = super().update(keys, values, layer)
        return functional.pad(held[0], (0, 0, 0, 3)), functional.pad(held[1], (0, 0, 0, 3))


@pytest.mark.parametrize(
    ("make", "claimed", "message"),
    [
        (always_windowed, set(), 'a cache that always has one claims "window", and not "full"'),
        (lambda geometry: SlidingCache(2), set(), 'claims "window", and not "full"'),
        (lambda geometry: FixedBuffer(), set(), 'claims "mask-sizes", whose get_mask_sizes'),
    ],
)
def test_a_forgotten_capability_is_named(make: Any, claimed: set[str], message: str) -> None:
    class Mine(KVCacheSuite):
        capabilities = claimed

    with pytest.raises(Exception, match=r".*") as raised:
        Mine().test_updates_give_back_every_token_in_order(make_cache=make)
    said = "\n".join([str(raised.value), *raised.value.__notes__])
    assert message in said
