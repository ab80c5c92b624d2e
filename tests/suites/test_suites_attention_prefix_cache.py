"""PrefixCacheSuite accepts the reference, whose blocks are of a pool that others use as well."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from infopt_reference.attention.block_pool import BlockPool
from infopt_reference.attention.prefix_cache import PrefixCache, sha256
from infopt_suites.attention import PrefixCacheSuite, PrefixGeometry
from infopt_suites.attention.prefix_protocol import Extra


class Reference:
    """`PrefixCache` and the pool under it, as the suites' protocol."""

    def __init__(self, geometry: PrefixGeometry) -> None:
        self.pool = BlockPool(geometry.num_blocks)
        hash_function = geometry.hash_function or sha256
        self.cache = PrefixCache(self.pool, geometry.block_size, hash_function)

    def match(self, tokens: Sequence[int], extra: Extra) -> Sequence[int]:
        return self.cache.match(tokens, extra).blocks

    def allocate(self, count: int) -> Sequence[int]:
        missing = count - self.pool.num_free
        if 0 < missing <= self.cache.num_evictable:
            self.cache.evict(missing)
        return self.pool.take(count)

    def insert(self, tokens: Sequence[int], blocks: Sequence[int], extra: Extra) -> Sequence[int]:
        table = self.cache.insert(tokens, blocks, extra)
        for own, kept in zip(blocks, table, strict=True):
            self.pool.share(kept)
            self.pool.release(own)
        return table

    def release(self, blocks: Sequence[int]) -> None:
        for block in reversed(blocks):
            self.pool.release(block)

    @property
    def num_free(self) -> int:
        return self.pool.num_free

    @property
    def num_evictable(self) -> int:
        return sum(self.pool.references(block) == 1 for block in self.cache.blocks)

    @property
    def num_held(self) -> int:
        cached = set(self.cache.blocks)
        used = range(self.pool.num_blocks)
        return sum(self.pool.references(block) > (block in cached) for block in used)


class TestReference(PrefixCacheSuite):
    capabilities = frozenset({"hash", "counts", "lru", "unknown-first"})

    @pytest.fixture
    def make_prefix_cache(self) -> type[Reference]:
        return Reference


class OfTokensAlone(Reference):
    """A cache that knows nothing but tokens."""

    def match(self, tokens: Sequence[int], extra: Extra) -> Sequence[int]:
        assert not extra
        return super().match(tokens, extra)


class TestReferenceOfTokensAlone(PrefixCacheSuite):
    extras = ({},)
    examples = 10

    @pytest.fixture
    def make_prefix_cache(self) -> type[OfTokensAlone]:
        return OfTokensAlone
