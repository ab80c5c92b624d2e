"""Conformance of each MakeLayeredCache that infopt.toml names under ``layered_cache``."""

import pytest

from infopt_suites.caching.layered import LayeredCacheSuite
from infopt_suites.caching.protocol import MakeLayeredCache
from infopt_suites.configured import Configured


class TestLayeredCache(Configured, LayeredCacheSuite):
    @pytest.fixture
    def make_layered_cache(self) -> MakeLayeredCache:
        implementation: MakeLayeredCache = self.implementation
        return implementation
