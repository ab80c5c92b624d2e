"""The free blocks of a paged cache, and how many hold each of the others.

Contract. A block is free, or has one reference or more; free + used = num_blocks at all times.
Taking a block that is not there, and sharing or giving back one that is free, are errors and change
nothing. Every operation costs the same with any number of blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class OutOfBlocksError(RuntimeError):
    """Not enough free blocks. Nothing was changed: evict or preempt, then try again."""


class BlockPool:
    """Free blocks and reference counts.

    Blocks that were given back are handed out again first, the latest one first of all: its memory
    is the likeliest to be in a cache. Blocks that were never used are not listed anywhere, so an
    empty pool costs the same with any number of blocks.

    Raises:
        ValueError: ``num_blocks`` is negative.
    """

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 0:
            raise ValueError(f"num_blocks is {num_blocks}; give 0 or more")
        self.num_blocks = num_blocks
        self._references: dict[int, int] = {}  # of used blocks, 1 or more
        self._returned: list[int] = []
        self._never_used = 0  # ids from here on were never handed out

    @property
    def num_free(self) -> int:
        return self.num_blocks - len(self._references)

    @property
    def num_used(self) -> int:
        return len(self._references)

    def references(self, block: int) -> int:
        """Holders of a block; 0 when it is free."""
        holders = self._references.get(block, 0)
        if not holders:
            self._require_id(block)
        return holders

    def take(self, count: int) -> list[int]:
        """Hands out ``count`` free blocks, each with one reference.

        Raises:
            OutOfBlocksError: there are fewer.
        """
        if not 0 <= count <= self.num_free:
            if count < 0:
                raise ValueError(f"{count} blocks were asked for; give 0 or more")
            raise OutOfBlocksError(
                f"{count} blocks are needed, {self.num_free} of {self.num_blocks} are free; "
                f"evict cached blocks or preempt a sequence"
            )
        start = max(0, len(self._returned) - count)
        blocks = self._returned[start:]
        blocks.reverse()
        del self._returned[start:]
        fresh = count - len(blocks)
        blocks.extend(range(self._never_used, self._never_used + fresh))
        self._never_used += fresh
        self._references.update(dict.fromkeys(blocks, 1))
        return blocks

    def share(self, block: int) -> None:
        """Adds a reference. Raises ValueError when the block is free or no block of this pool."""
        self._references[block] = self._holders(block) + 1

    def release(self, block: int) -> bool:
        """Takes one reference back; True when it was the last one and the block is free now.

        Raises:
            ValueError: the block is free already, or no block of this pool.
        """
        holders = self._holders(block)
        if holders > 1:
            self._references[block] = holders - 1
            return False
        del self._references[block]
        self._returned.append(block)
        return True

    def check_conservation(self, holders: Iterable[int]) -> None:
        """Compares the counts with ``holders``: each block as often as somebody holds it.

        It goes over all used and returned blocks: for tests and debugging.

        Raises:
            RuntimeError: a count is wrong, or a block is free and used, twice free, or lost.
        """
        held = Counter(holders)
        for block in held.keys() | self._references.keys():
            if held[block] != self._references.get(block, 0):
                raise RuntimeError(
                    f"block {block} is held {held[block]} times, but "
                    f"{self._references.get(block, 0)} references are counted"
                )
        accounts = Counter([*self._returned, *self._references])
        expected = Counter(range(self._never_used))
        if accounts != expected:
            wrong = min((accounts - expected) + (expected - accounts))
            raise RuntimeError(
                f"block {wrong} is listed {accounts[wrong]} times as free or used; once is right"
            )

    def _holders(self, block: int) -> int:
        holders = self._references.get(block)
        if holders is None:
            self._require_id(block)
            raise ValueError(f"block {block} is free; only its holders can share or release it")
        return holders

    def _require_id(self, block: int) -> None:
        if not 0 <= block < self.num_blocks:
            raise ValueError(f"there is no block {block}; ids are 0…{self.num_blocks - 1}")
