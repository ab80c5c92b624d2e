"""Conformance of each MakeSemanticCache that infopt.toml names under ``semantic_cache``."""

import pytest

from infopt_suites.caching.protocol import MakeSemanticCache
from infopt_suites.caching.semantic import SemanticCacheSuite
from infopt_suites.configured import Configured


class TestSemanticCache(Configured, SemanticCacheSuite):
    @pytest.fixture
    def make_semantic_cache(self) -> MakeSemanticCache:
        implementation: MakeSemanticCache = self.implementation
        return implementation
