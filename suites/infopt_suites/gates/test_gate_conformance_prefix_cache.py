"""Conformance of each MakePrefixCache that infopt.toml names under ``prefix_cache``."""

import pytest

from infopt_suites.attention.prefix_cache import PrefixCacheSuite
from infopt_suites.attention.prefix_protocol import MakePrefixCache
from infopt_suites.configured import Configured


class TestPrefixCache(Configured, PrefixCacheSuite):
    @pytest.fixture
    def make_prefix_cache(self) -> MakePrefixCache:
        implementation: MakePrefixCache = self.implementation
        return implementation
