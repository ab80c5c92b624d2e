"""Conformance of each MakeEmbeddingBatcher that infopt.toml names under ``embedding_batcher``."""

import pytest

from infopt_suites.batching.embedding_batcher import EmbeddingBatcherSuite
from infopt_suites.batching.protocol import MakeEmbeddingBatcher
from infopt_suites.configured import Configured


class TestEmbeddingBatcher(Configured, EmbeddingBatcherSuite):
    @pytest.fixture
    def make_embedding_batcher(self) -> MakeEmbeddingBatcher:
        implementation: MakeEmbeddingBatcher = self.implementation
        return implementation
