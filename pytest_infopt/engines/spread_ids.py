"""Token ids from all over a vocabulary, for passes whose text does not matter."""

from __future__ import annotations

_STRIDE = 7919  # prime to the size of most vocabularies, so that no id comes twice


def spread_ids(count: int, vocabulary: int) -> list[int]:
    """``count`` ids of a vocabulary of that size, the same each time."""
    return [(_STRIDE * index + 1) % vocabulary for index in range(count)]
