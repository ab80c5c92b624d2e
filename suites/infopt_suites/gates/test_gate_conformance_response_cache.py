"""Conformance of each MakeResponseCache that infopt.toml names under ``response_cache``."""

import pytest

from infopt_suites.caching.protocol import MakeResponseCache
from infopt_suites.caching.response import ResponseCacheSuite
from infopt_suites.configured import Configured


class TestResponseCache(Configured, ResponseCacheSuite):
    @pytest.fixture
    def make_response_cache(self) -> MakeResponseCache:
        implementation: MakeResponseCache = self.implementation
        return implementation
