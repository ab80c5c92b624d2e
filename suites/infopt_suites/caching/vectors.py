"""Embedders whose similarities are known: texts to float32 vectors, without a model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIMENSION = 16
Vector = NDArray[np.float32]


@dataclass(frozen=True)
class KnownVectors:
    """The vector of the longest phrase that is in a text; of any other text, one that is by its
    hash: two of them have a cosine of more than 0.9 once in 10^9 pairs (16 dimensions).

    ``salt``: of another value, another embedder.
    """

    phrases: Mapping[str, Sequence[float]] = field(default_factory=dict)
    salt: str = ""
    dimension: int = DIMENSION

    def __call__(self, text: str) -> Vector:
        known = [phrase for phrase in self.phrases if phrase in text]
        if known:
            return np.array(self.phrases[max(known, key=len)], dtype=np.float32)
        seed = hashlib.sha256((self.salt + text).encode("utf-8", "surrogatepass")).digest()
        drawn = np.random.default_rng([*seed]).standard_normal(self.dimension)
        return np.asarray(drawn / np.linalg.norm(drawn), dtype=np.float32)


def at(cosine: float, axis: int = 1, length: float = 1.0) -> list[float]:
    """A vector at this cosine from the first axis, towards another."""
    vector = [0.0] * DIMENSION
    vector[0] = length * cosine
    vector[axis] = length * math.sqrt(1.0 - cosine * cosine)
    return vector


def cosine(first: Any, second: Any) -> float:
    """In float64."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def directionless() -> Iterator[tuple[str, list[float]]]:
    """What some embedders return for texts that they do not like."""
    yield "zeros", [0.0] * DIMENSION
    yield "NaN", [math.nan] * DIMENSION
    yield "one NaN", [math.nan, *at(1.0)[1:]]
    yield "infinity", [math.inf, *at(1.0)[1:]]
    yield "two infinities", [math.inf, -math.inf, *at(1.0)[2:]]
    yield "too few numbers", at(1.0)[:-1]
    yield "too many numbers", [*at(1.0), 0.0]
    yield "no numbers", []
