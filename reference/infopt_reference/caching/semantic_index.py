"""The packed index of a semantic cache: unit vectors by context, searched from end to end.

    similarities = V q      V [n, D]: the vectors of one context, q [D]: the question's, all float32

Products of a sixth of the numbers rule most rows out, without error (packed_vectors.py).

Contract
- `search` returns the entries of the context whose similarity is at least the threshold, the most
  similar first; of equally similar ones the oldest; `MOST` at most. Products find them with a
  margin for their rounding; they are then compared in float64, each by itself, as the rounding of a
  product depends on where a row stands.
- Entries of one context know nothing of other contexts.
- Memory is 1.3 times that of the vectors at most, for contexts of 16 vectors and more: arrays grow
  by a sixteenth; removal moves the last row into the gap, and arrays shrink (packed_vectors.py).
- A search takes time linear in the vectors of its context; everything else but the search for the
  least recently used entry (one pass over whole numbers) does not grow with the index.

Leaves out: approximate search (HNSW, IVF). A hundred thousand vectors take milliseconds.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .embedder import Vectors
from .packed_vectors import PackedVectors
from .store import LogId

_ROW = np.dtype(
    [
        ("milliseconds", np.int64),  # of its id in the log
        ("number", np.int64),
        ("expires", np.int64),  # milliseconds of the store's clock
        ("used", np.int64),  # when it was used last, counted in uses
        ("context", np.int32),
        ("row", np.int32),  # in its context
    ]
)
NEVER = np.iinfo(np.int64).max
MOST = 64  # matches of one search


class Match(NamedTuple):
    """An entry that is similar enough."""

    entry: bytes
    similarity: float


class SemanticIndex:
    """Vectors of ``dimension`` numbers, with the times that decide which entry goes first."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._slots: dict[bytes, int] = {}
        self._entries: list[bytes] = []  # by slot
        self._rows = np.empty(0, _ROW)  # by slot
        self._contexts: dict[bytes, int] = {}
        self._packed: list[_Context] = []  # by number of the context; empty ones are free
        self._free: list[int] = []
        self._uses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, entry: bytes) -> bool:
        return entry in self._slots

    @property
    def nbytes(self) -> int:
        """Bytes of everything that grows with the entries."""
        entries = sys.getsizeof(self._slots) + sys.getsizeof(self._entries)
        entries += sum(
            sys.getsizeof(entry) + sys.getsizeof(self._slots[entry]) for entry in self._entries
        )
        return entries + self._rows.nbytes + sum(packed.nbytes for packed in self._packed)

    def add(
        self, entry: bytes, context: bytes, vector: Vectors, log_id: LogId, expires: int = NEVER
    ) -> None:
        """Adds an entry, which counts as used now; one of the same name makes room."""
        if entry in self._slots:
            self.remove(entry)
        number = self._number(context)
        packed = self._packed[number]
        slot = len(self._entries)
        if slot == len(self._rows):
            self._rows.resize(_grown(slot), refcheck=False)
        self._uses += 1
        self._rows[slot] = (*log_id, expires, self._uses, number, packed.vectors.count)
        packed.append(vector, slot)
        self._slots[entry] = slot
        self._entries.append(entry)

    def remove(self, entry: bytes) -> LogId:
        """Removes an entry; its id in the log.

        Raises:
            KeyError: there is none of this name.
        """
        slot = self._slots.pop(entry)
        log_id = self.log_id_of(slot)
        number, row = (int(self._rows[slot][name]) for name in ("context", "row"))
        packed = self._packed[number]
        moved = packed.remove(row)
        self._rows["row"][moved] = row
        if not packed.vectors.count:
            self._free.append(number)
            del self._contexts[packed.name]
        last = self._entries.pop()
        if last != entry:  # the last slot moves into the gap
            self._entries[slot] = last
            self._slots[last] = slot
            self._rows[slot] = self._rows[len(self._entries)]
            mover = self._packed[int(self._rows[slot]["context"])]
            mover.slots[int(self._rows[slot]["row"])] = slot
        if len(self._rows) > _most_rows(len(self._entries)):
            self._rows.resize(_grown(len(self._entries)), refcheck=False)
        return log_id

    def log_id(self, entry: bytes) -> LogId:
        """The entry's id in the log."""
        return self.log_id_of(self._slots[entry])

    def log_id_of(self, slot: int) -> LogId:
        return LogId(int(self._rows[slot]["milliseconds"]), int(self._rows[slot]["number"]))

    def context(self, entry: bytes) -> bytes:
        """The entry's context."""
        return self._packed[int(self._rows[self._slots[entry]]["context"])].name

    def touch(self, entry: bytes) -> None:
        """The entry was used now."""
        self._uses += 1
        self._rows["used"][self._slots[entry]] = self._uses

    def search(self, context: bytes, vector: Vectors, threshold: float) -> list[Match]:
        """Entries of the context by descending similarity, from the threshold."""
        number = self._contexts.get(context)
        if number is None:
            return []
        rows, similarities = self._packed[number].candidates(vector, threshold)
        slots = self._packed[number].slots[rows]
        found = self._rows[slots]
        order = np.lexsort((found["number"], found["milliseconds"], -similarities))
        return [Match(self._entries[slots[place]], float(similarities[place])) for place in order]

    def least_recently_used(self) -> bytes:
        """The entry whose last use is the longest ago.

        Raises:
            ValueError: the index is empty.
        """
        return self._entries[int(np.argmin(self._rows["used"][: len(self._entries)]))]

    def expired(self, milliseconds: int) -> list[bytes]:
        """The entries that end at this time or before."""
        ends = self._rows["expires"][: len(self._entries)]
        return [self._entries[slot] for slot in np.flatnonzero(ends <= milliseconds)]

    def _number(self, context: bytes) -> int:
        """The context's number, a new one where it has none."""
        number = self._contexts.get(context)
        if number is None:
            packed = _Context(self.dimension, context)
            if self._free:
                number = self._free.pop()
                self._packed[number] = packed
            else:
                number = len(self._packed)
                self._packed.append(packed)
            self._contexts[context] = number
        return number


class _Context:
    """The vectors of one context, and whose they are."""

    __slots__ = ("name", "slots", "vectors")

    def __init__(self, dimension: int, name: bytes) -> None:
        self.name = name
        self.vectors = PackedVectors(dimension)
        self.slots: NDArray[np.int32] = np.empty(0, np.int32)  # by row

    @property
    def nbytes(self) -> int:
        return self.vectors.nbytes + self.slots.nbytes

    def append(self, vector: Vectors, slot: int) -> None:
        count = self.vectors.count
        if count == len(self.slots):
            self.slots.resize(_grown(count), refcheck=False)
        self.slots[count] = slot
        self.vectors.append(vector)

    def remove(self, row: int) -> int:
        """Moves the last row to this one; the slot of the entry that moved."""
        self.vectors.remove(row)
        count = self.vectors.count
        self.slots[row] = moved = int(self.slots[count])
        if len(self.slots) > _most_rows(count):
            self.slots.resize(_grown(count), refcheck=False)
        return moved

    def candidates(
        self, vector: Vectors, threshold: float
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Rows that are similar enough, `MOST` at most, and how similar they are."""
        rows, products = self.vectors.near(vector, threshold)
        if len(rows) > MOST:
            rows = rows[np.argpartition(products, -MOST)[-MOST:]]
        found, question = self.vectors.rows(rows).astype(np.float64), vector.astype(np.float64)
        lengths = np.sqrt((found * found).sum(axis=1) * (question * question).sum())
        similarities = (found * question).sum(axis=1) / lengths
        enough = similarities >= threshold - len(vector) * np.finfo(np.float64).eps
        return rows[enough], similarities[enough]


def _grown(rows: int) -> int:
    return rows + max(1, rows // 16)


def _most_rows(rows: int) -> int:
    """More than these are too many for so many vectors; well above what growing makes."""
    return rows + 16 + rows // 8
