"""Unit vectors of float32 that come and go, packed so that those near a vector are found fast.

    v q = v_head q_head + v_tail q_tail <= v_head q_head + |v_tail| |q_tail|      (Cauchy, Schwarz)

The head of a vector is a sixth of it. The heads lie together, and the tails, and the lengths of
the tails. A search multiplies all heads; only rows whose bound reaches the threshold have their
tails read, each by itself, or all in one product where an eighth of a chunk would be read.

Contract. `near` misses no row whose exact product reaches the threshold. With u = eps / 2, a head's
product is off by D/6 u at most, lengths, their product and the sum by 5 u, and the full product by
(D + 1) u; vectors that are rounded to float32 make 4 u more. The margin is 2 (D + 5) u.

There is memory for n + n/8 + 18 rows at most, of D numbers and one length. A row that is removed
makes place for the last one. Up to 64 MiB there is one chunk, which is copied as it grows; beyond,
chunks are added, and what is there stays where it is, so that growing never needs the memory twice.

Every chunk of 4 MiB and more is an array that NumPy itself asked of the system for, in huge pages
where there are any. An array that grows in place has small ones, and so have small chunks: a
product over them takes a third longer, and three times as long where the caches hold them.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .embedder import Vectors

SINGLE_BYTES = 64 * 2**20  # a sixteenth is 4 MiB, from which NumPy asks for huge pages
HEAD_SHARE = 6  # vectors with fewer numbers are all head
GATHER_SHARE = 8


class PackedVectors:
    """Rows of ``dimension`` numbers; ``count`` of them. ``single_bytes``: of the chunk that is
    copied as it grows."""

    __slots__ = ("_chunks", "_head", "_single_rows", "_starts", "count", "dimension")

    def __init__(self, dimension: int, single_bytes: int = SINGLE_BYTES) -> None:
        self.dimension = dimension
        self.count = 0
        self._head = dimension // HEAD_SHARE or dimension
        self._single_rows = single_bytes // (4 * (dimension + 1))
        self._chunks = [_Chunk(0, dimension, self._head)]
        self._starts = [0]  # the first row of each chunk

    @property
    def nbytes(self) -> int:
        return sum(sys.getsizeof(chunk.memory) for chunk in self._chunks)

    @property
    def capacity(self) -> int:
        """Rows that there is memory for."""
        return self._starts[-1] + len(self._chunks[-1].heads)

    def append(self, vector: Vectors) -> None:
        if self.count == self.capacity:
            more = max(1, self.count // 16)
            if self.count < self._single_rows:
                self._copy_single(self.count + more)
            else:
                self._starts.append(self.count)
                self._chunks.append(_Chunk(more, self.dimension, self._head))
        self.count += 1
        self._write(self.count - 1, vector)

    def remove(self, row: int) -> None:
        """The last row moves to this one."""
        self._write(row, self.row(self.count - 1))
        self.count -= 1
        if len(self._chunks) > 1:
            # Not at once when it is empty, as the next row may need it again.
            if self.count + self.count // 32 + 16 < self._starts[-1]:
                self._chunks.pop()
                self._starts.pop()
        elif self.capacity > self.count + self.count // 8 + 16:
            self._copy_single(self.count + max(1, self.count // 16))

    def row(self, row: int) -> Vectors:
        """A copy of one row."""
        chunk, place = self._place(row)
        return np.concatenate((chunk.heads[place], chunk.tails[place]))

    def rows(self, rows: Iterable[int]) -> Vectors:
        """Some rows: [number of them, D]."""
        found = [self.row(row) for row in rows]
        return np.stack(found) if found else np.empty((0, self.dimension), np.float32)

    def near(
        self, vector: Vectors, threshold: float
    ) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Rows whose product with the vector is at least the threshold, up to a margin for
        rounding, in ascending order, and the products."""
        least = threshold - (self.dimension + 5) * float(np.finfo(np.float32).eps)
        head, tail = vector[: self._head], vector[self._head :]
        rows, products = [], []
        for start, chunk in zip(self._starts, self._chunks, strict=True):
            found = chunk.near(max(0, self.count - start), head, tail, least)
            rows.append(found[0] + start)
            products.append(found[1])
        return np.concatenate(rows), np.concatenate(products)

    def _place(self, row: int) -> tuple[_Chunk, int]:
        chunk = bisect_right(self._starts, row) - 1
        return self._chunks[chunk], row - self._starts[chunk]

    def _write(self, row: int, vector: Vectors) -> None:
        chunk, place = self._place(row)
        chunk.heads[place], chunk.tails[place] = vector[: self._head], vector[self._head :]
        chunk.lengths[place] = _length(vector[self._head :])

    def _copy_single(self, rows: int) -> None:
        old, new = self._chunks[0], _Chunk(rows, self.dimension, self._head)
        new.heads[: self.count] = old.heads[: self.count]
        new.tails[: self.count] = old.tails[: self.count]
        new.lengths[: self.count] = old.lengths[: self.count]
        self._chunks[0] = new


class _Chunk:
    """Consecutive rows, in one array: all heads, all tails, and the lengths of the tails."""

    __slots__ = ("heads", "lengths", "memory", "tails")

    def __init__(self, rows: int, dimension: int, head: int) -> None:
        self.memory: Vectors = np.empty(rows * (dimension + 1), np.float32)
        heads, tails, self.lengths = np.split(self.memory, [rows * head, rows * dimension])
        self.heads: Vectors = heads.reshape(rows, head)
        self.tails: Vectors = tails.reshape(rows, dimension - head)

    def near(
        self, count: int, head: Vectors, tail: Vectors, least: float
    ) -> tuple[NDArray[np.intp], Vectors]:
        """The first ``count`` rows' part of `PackedVectors.near`."""
        products: Vectors = self.heads[:count] @ head
        bounds = self.lengths[:count] * _length(tail)
        bounds += products
        rows = np.flatnonzero(bounds >= least)
        if len(rows) * GATHER_SHARE < count:
            products = products[rows] + self.tails[rows] @ tail
            enough = products >= least
            return rows[enough], products[enough]
        products += self.tails[:count] @ tail
        rows = np.flatnonzero(products >= least)
        return rows, products[rows]


def _length(vector: Vectors) -> np.float32:
    wide = vector.astype(np.float64)
    return np.float32(np.sqrt(wide @ wide))
