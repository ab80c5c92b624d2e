"""EmbeddingBatcherSuite and EmbedderSuite kill faulty implementations, each by its own property."""

from __future__ import annotations

from typing import Any

import embedders
import embedding_batchers as batchers
import pytest
from infopt_suites.batching import EmbedderSuite, EmbeddingBatcherSuite
from properties import claimed_tests, declared, run_property


def name(mutant: Any) -> str:
    return f"{mutant.fault.__name__}-{mutant.broken}"


@pytest.mark.parametrize("mutant", batchers.MUTANTS, ids=name)
def test_a_faulty_embedding_batcher_is_killed(
    mutant: batchers.EmbeddingMutant, counted: Any
) -> None:
    counted("mutant", batchers.AREA)
    claims = declared(EmbeddingBatcherSuite, mutant.fault)
    fault = mutant.fault
    with pytest.raises(AssertionError):
        run_property(EmbeddingBatcherSuite, mutant.broken, claims, make_embedding_batcher=fault)


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (made, name)
        for made in batchers.SOUND
        for name in claimed_tests(EmbeddingBatcherSuite, made.capabilities)
    ],
)
def test_a_sound_embedding_batcher_is_spared(made: Any, name: str, counted: Any) -> None:
    counted("sound", batchers.AREA)
    claims = declared(EmbeddingBatcherSuite, made)
    run_property(EmbeddingBatcherSuite, name, claims, make_embedding_batcher=made)


@pytest.mark.parametrize("mutant", embedders.MUTANTS, ids=name)
def test_a_faulty_embedder_is_killed(mutant: embedders.EmbedderMutant, counted: Any) -> None:
    counted("mutant", embedders.AREA)
    claims = {"capabilities": mutant.fault.capabilities}
    with pytest.raises(AssertionError):
        run_property(EmbedderSuite, mutant.broken, claims, make_embedder=mutant.fault)


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (made, name)
        for made in embedders.SOUND
        for name in claimed_tests(EmbedderSuite, made.capabilities)
    ],
)
def test_a_sound_embedder_is_spared(made: Any, name: str, counted: Any) -> None:
    counted("sound", embedders.AREA)
    run_property(EmbedderSuite, name, {"capabilities": made.capabilities}, make_embedder=made)
