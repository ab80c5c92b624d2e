"""Conformance of each MakeEmbedder that infopt.toml names under ``embedder``."""

import pytest

from infopt_suites.batching.embedder import EmbedderSuite, MakeEmbedder
from infopt_suites.configured import Configured


class TestEmbedder(Configured, EmbedderSuite):
    @pytest.fixture
    def make_embedder(self) -> MakeEmbedder:
        implementation: MakeEmbedder = self.implementation
        return implementation
