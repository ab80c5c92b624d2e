"""EmbeddingBatcherSuite and EmbedderSuite accept the references."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache

import pytest
import torch
from infopt_reference import batching
from infopt_reference.caching.embedder import MiniLMEmbedder
from infopt_suites.batching import (
    BatchPolicy,
    EmbedderSuite,
    EmbeddingBatcherSuite,
    MakeEmbedder,
    MakeEmbeddingBatcher,
)
from infopt_suites.batching.embedder import Embed
from infopt_suites.batching.protocol import Backend


def make_reference(backend: Backend, policy: BatchPolicy) -> batching.EmbeddingBatcher:
    return batching.EmbeddingBatcher(backend, batching.BatchPolicy(**asdict(policy)))


class TestEmbeddingBatcher(EmbeddingBatcherSuite):
    capabilities = frozenset(EmbeddingBatcherSuite.offers)

    @pytest.fixture
    def make_embedding_batcher(self) -> MakeEmbeddingBatcher:
        return make_reference


@cache
def mini_lm(dtype: torch.dtype) -> MiniLMEmbedder:
    embedder = MiniLMEmbedder()
    embedder._model.to(dtype)  # its public door is float32
    return embedder


def in_one_batch(dtype: torch.dtype, batch_size: int) -> Embed:
    """The reference leaves batches to its caller, who asks for all at once."""
    return mini_lm(dtype).embed_now


@pytest.mark.slow
class TestMiniLM(EmbedderSuite):
    capabilities = frozenset({"empty", "normalized"})

    @pytest.fixture
    def make_embedder(self) -> MakeEmbedder:
        return in_one_batch
