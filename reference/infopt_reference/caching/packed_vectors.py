"""Rows of float32 that grow and shrink, packed for products with a vector.

    products(q) = V q      V [n, D], in chunks of consecutive rows

Contract. There is memory for n + n/8 + 18 rows at most. A row that is removed makes place for the
last one. Up to 64 MiB there is one chunk, which is copied as it grows; beyond, chunks are added,
and what is there stays where it is, so that growing never needs the memory twice.

Every chunk of 4 MiB and more is an array that NumPy itself asked of the system for, in huge pages
where there are any. An array that grows in place has small ones, and so have small chunks: a
product over them takes a third longer, and three times as long where the caches hold them.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .embedder import Vectors

SINGLE_BYTES = 64 * 2**20  # a sixteenth is 4 MiB, from which NumPy asks for huge pages


class PackedVectors:
    """Rows of ``dimension`` numbers; ``count`` of them. ``single_bytes``: of the chunk that is
    copied as it grows."""

    __slots__ = ("_chunks", "_single_rows", "_starts", "count", "dimension")

    def __init__(self, dimension: int, single_bytes: int = SINGLE_BYTES) -> None:
        self.dimension = dimension
        self.count = 0
        self._single_rows = single_bytes // (4 * dimension)
        self._chunks: list[Vectors] = [np.empty((0, dimension), np.float32)]
        self._starts = [0]  # the first row of each chunk

    @property
    def nbytes(self) -> int:
        return sum(sys.getsizeof(chunk) for chunk in self._chunks)

    @property
    def capacity(self) -> int:
        """Rows that there is memory for."""
        return self._starts[-1] + len(self._chunks[-1])

    def append(self, vector: Vectors) -> None:
        if self.count == self.capacity:
            more = max(1, self.count // 16)
            if self.count < self._single_rows:
                self._copy_single(self.count + more)
            else:
                self._starts.append(self.count)
                self._chunks.append(np.empty((more, self.dimension), np.float32))
        self.count += 1
        self.row(self.count - 1)[:] = vector

    def remove(self, row: int) -> None:
        """The last row moves to this one."""
        self.row(row)[:] = self.row(self.count - 1)
        self.count -= 1
        if len(self._chunks) > 1:
            # Not at once when it is empty, as the next row may need it again.
            if self.count + self.count // 32 + 16 < self._starts[-1]:
                self._chunks.pop()
                self._starts.pop()
        elif self.capacity > self.count + self.count // 8 + 16:
            self._copy_single(self.count + max(1, self.count // 16))

    def row(self, row: int) -> Vectors:
        """One row, as it is stored."""
        chunk = bisect_right(self._starts, row) - 1
        found: Vectors = self._chunks[chunk][row - self._starts[chunk]]
        return found

    def rows(self, rows: Iterable[int]) -> Vectors:
        """Some rows: [number of them, D]."""
        found = [self.row(row) for row in rows]
        return np.stack(found) if found else np.empty((0, self.dimension), np.float32)

    def products(self, vector: Vectors) -> NDArray[np.float32]:
        """Each row's product with the vector: [n]."""
        products = np.empty(self.count, np.float32)
        for start, chunk in zip(self._starts, self._chunks, strict=True):
            used = chunk[: max(0, self.count - start)]
            np.dot(used, vector, out=products[start : start + len(used)])
        return products

    def _copy_single(self, rows: int) -> None:
        chunk = np.empty((rows, self.dimension), np.float32)
        chunk[: self.count] = self._chunks[0][: self.count]
        self._chunks[0] = chunk
