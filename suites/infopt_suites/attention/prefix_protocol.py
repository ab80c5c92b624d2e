"""What the suite for prefix caches talks to: minimal protocols for a thin adapter.

Legend: P tokens a block, N blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Extra = Mapping[str, str]


@dataclass(frozen=True)
class PrefixGeometry:
    """The cache that the suite asks for: ``num_blocks`` blocks of ``block_size`` tokens.

    ``hash_function``: the cache hashes with it, if it can be told so (capability "hash").
    ``store``: insert calls it for each block before the block is known, to copy it elsewhere, and
    raises what it raises (capability "store").
    """

    num_blocks: int
    block_size: int
    hash_function: Callable[[bytes], bytes] | None = None
    store: Callable[[int], None] | None = None


class PrefixCache(Protocol):
    """Blocks of one pool: free, held by requests, or kept for later ones with the same beginning.

    A request: `match` its prompt, `allocate` blocks for the rest, compute, `insert`, `release`.
    ``extra`` is all that changes keys and values beside the tokens: adapter, tenant, image, salt.
    """

    def match(self, tokens: Sequence[int], extra: Extra) -> Sequence[int]:
        """The blocks of the longest cached beginning, short of the last token; the caller holds
        them until it releases them."""

    def allocate(self, count: int) -> Sequence[int]:
        """Blocks with nothing in them, for the caller to hold and write; evicts what nobody holds.

        Raises, and changes nothing, if there are too few.
        """

    def insert(self, tokens: Sequence[int], blocks: Sequence[int], extra: Extra) -> Sequence[int]:
        """Make the full blocks of these tokens known. The caller holds ``blocks``; from then on, it
        holds those that are returned, which are in part another request's with the same tokens."""

    def release(self, blocks: Sequence[int]) -> None:
        """The caller holds these blocks no longer."""


class CountedPrefixCache(PrefixCache, Protocol):
    """Capability "counts": every block is one of these."""

    @property
    def num_free(self) -> int:
        """Blocks in which nothing is."""

    @property
    def num_evictable(self) -> int:
        """Cached blocks that nobody holds."""

    @property
    def num_held(self) -> int:
        """Blocks that a request holds."""


class MakePrefixCache(Protocol):
    """The factory that `PrefixCacheSuite` asks for."""

    def __call__(self, geometry: PrefixGeometry) -> PrefixCache:
        """An empty cache."""
