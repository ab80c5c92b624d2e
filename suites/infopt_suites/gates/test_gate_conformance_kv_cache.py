"""Conformance of each MakeCache that infopt.toml names under ``kv_cache``."""

import pytest

from infopt_suites.attention.cache_protocol import MakeCache
from infopt_suites.attention.kv_cache import KVCacheSuite
from infopt_suites.configured import Configured


class TestKVCache(Configured, KVCacheSuite):
    @pytest.fixture
    def make_cache(self) -> MakeCache:
        implementation: MakeCache = self.implementation
        return implementation
