"""Blocks of a paged KV cache: who holds which, who may write where. Counts only, no tensors.

A cache of ``num_blocks`` blocks of ``block_size`` tokens. A sequence of n tokens holds a *block
table* of ceil(n / block_size) block ids; token i lies in block table[i // block_size] at place
i % block_size. Only the last block can be partly filled, so a sequence wastes less than one block:
exactly -n mod block_size tokens.

Contract. Every block is free, or has as many references as there are holders (block tables, prefix
cache): free + used = num_blocks at all times. A block with more than one holder is never written:
an append into a shared, partly filled block first exchanges it for a copy (*copy on write*), which
the caller is told to make. Operations that fail change nothing. The cost of each is independent of
``num_blocks``: fork, free and `BlockAllocator.block_table` go over one sequence's table, the others
over the blocks that they take or give back.

Left out: swapping to another device, and sliding windows that give back their oldest blocks. A
sequence that must make room is freed and computed again later (preemption by recompute).

Source: Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with
PagedAttention", sections 4.2 to 4.4.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .block_pool import BlockPool


class BlockCopy(NamedTuple):
    """A copy on write: one block's contents, of all layers, go to another before it is written."""

    source: int
    destination: int


@dataclass(slots=True)
class _Allocation:
    table: list[int] = field(default_factory=list)
    num_tokens: int = 0


class BlockAllocator:
    """Block tables of sequences over one pool. A sequence is named by any hashable id.

    Raises:
        ValueError: ``block_size`` is less than 1, or ``num_blocks`` negative.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if block_size < 1:
            raise ValueError(f"block_size is {block_size}; give 1 or more tokens")
        self.block_size = block_size
        self.pool = BlockPool(num_blocks)
        self._allocations: dict[Hashable, _Allocation] = {}

    @property
    def num_blocks(self) -> int:
        return self.pool.num_blocks

    @property
    def num_free_blocks(self) -> int:
        return self.pool.num_free

    @property
    def sequences(self) -> tuple[Hashable, ...]:
        """The sequences that exist, oldest first."""
        return tuple(self._allocations)

    def __contains__(self, sequence: Hashable) -> bool:
        return sequence in self._allocations

    def block_table(self, sequence: Hashable) -> tuple[int, ...]:
        """Block ids of a sequence in the order of its tokens."""
        return tuple(self._of(sequence).table)

    def num_tokens(self, sequence: Hashable) -> int:
        return self._of(sequence).num_tokens

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that so many tokens take: ceil(num_tokens / block_size)."""
        if num_tokens < 0:
            raise ValueError(f"{num_tokens} tokens; give 0 or more")
        return -(-num_tokens // self.block_size)

    def can_allocate(self, num_tokens: int) -> bool:
        """Whether `allocate` of a new sequence, without a prefix, would succeed now."""
        return self.blocks_for(num_tokens) <= self.pool.num_free

    def allocate(self, sequence: Hashable, num_tokens: int = 0, prefix: Sequence[int] = ()) -> None:
        """Starts a sequence with room for ``num_tokens``, the first of them in ``prefix``.

        ``prefix`` are blocks, filled before and full, to which the caller holds references (as
        `PrefixCache.match` hands them out): they pass to the sequence. When this fails the caller
        still holds them.

        Raises:
            ValueError: the sequence exists, a prefix block is free, or the prefix is longer than
                the sequence.
            OutOfBlocksError: there are too few free blocks.
        """
        if sequence in self._allocations:
            raise ValueError(f"sequence {sequence!r} exists; free it before its id is used again")
        fresh = self.blocks_for(num_tokens) - len(prefix)
        if num_tokens < len(prefix) * self.block_size:
            raise ValueError(
                f"a prefix of {len(prefix)} full blocks of {self.block_size} is longer than the "
                f"sequence of {num_tokens} tokens"
            )
        for block in prefix:
            if not self.pool.references(block):
                raise ValueError(f"prefix block {block} is free; match and keep it before")
        table = [*prefix, *self.pool.take(fresh)]
        self._allocations[sequence] = _Allocation(table, num_tokens)

    def can_append(self, sequence: Hashable, num_tokens: int = 1) -> bool:
        """Whether `append` would succeed now, its copy on write included."""
        return self._needed(self._of(sequence), num_tokens) <= self.pool.num_free

    def append(self, sequence: Hashable, num_tokens: int = 1) -> BlockCopy | None:
        """Makes room for more tokens at the end.

        Returns the copy that has to be made before they are written, or None. At most one block is
        both shared and about to be written: the last one, partly filled.

        Raises:
            OutOfBlocksError: there are too few free blocks.
        """
        allocation = self._of(sequence)
        needed = self._needed(allocation, num_tokens)
        if not needed:  # as in most steps: the last block has room, and nobody else holds it
            allocation.num_tokens += num_tokens
            return None
        fresh, copy = self.pool.take(needed), None
        if self._writes_shared(allocation):
            copy = BlockCopy(allocation.table[-1], fresh.pop())
            allocation.table[-1] = copy.destination
            self.pool.release(copy.source)
        allocation.table.extend(fresh)
        allocation.num_tokens += num_tokens
        return copy

    def fork(self, parent: Hashable, child: Hashable) -> None:
        """Starts a sequence with the same tokens in the same blocks; takes no block.

        Raises:
            ValueError: there is no such parent, or the child exists.
        """
        source = self._of(parent)
        if child in self._allocations:
            raise ValueError(f"sequence {child!r} exists; free it before its id is used again")
        for block in source.table:
            self.pool.share(block)
        self._allocations[child] = _Allocation(list(source.table), source.num_tokens)

    def truncate(self, sequence: Hashable, num_tokens: int) -> None:
        """Keeps the first ``num_tokens`` and gives back the blocks behind them.

        Raises:
            ValueError: the sequence has fewer tokens.
        """
        allocation = self._of(sequence)
        if not 0 <= num_tokens <= allocation.num_tokens:
            raise ValueError(
                f"sequence {sequence!r} has {allocation.num_tokens} tokens and cannot be cut to "
                f"{num_tokens}"
            )
        kept = self.blocks_for(num_tokens)
        for block in reversed(allocation.table[kept:]):
            self.pool.release(block)
        del allocation.table[kept:]
        allocation.num_tokens = num_tokens

    def free(self, sequence: Hashable) -> None:
        """Ends a sequence; blocks that nobody else holds are free now."""
        self.truncate(sequence, 0)
        del self._allocations[sequence]

    def replace(self, sequence: Hashable, index: int, block: int) -> None:
        """Lets entry ``index`` of a table point at a block that holds the same tokens.

        Two sequences that were filled at the same time with the same prompt share it from then on.
        The sequence takes a reference of its own to ``block`` and gives back its former one.

        Raises:
            ValueError: there is no such entry, or the block is free.
        """
        table = self._of(sequence).table
        if not 0 <= index < len(table):
            raise ValueError(f"sequence {sequence!r} has {len(table)} blocks, and none at {index}")
        self.pool.share(block)  # first: it may be the very block that is given back
        self.pool.release(table[index])
        table[index] = block

    def check_conservation(self, others: Iterable[int] = ()) -> None:
        """Every table has the right length, and `BlockPool.check_conservation` holds.

        ``others``: blocks held by something else, such as `PrefixCache.blocks`, each as often as it
        is held.

        Raises:
            RuntimeError: a table or a count is wrong.
        """
        for sequence, allocation in self._allocations.items():
            if len(allocation.table) != self.blocks_for(allocation.num_tokens):
                raise RuntimeError(
                    f"sequence {sequence!r} of {allocation.num_tokens} tokens has "
                    f"{len(allocation.table)} blocks of {self.block_size}"
                )
        tables = [block for allocation in self._allocations.values() for block in allocation.table]
        self.pool.check_conservation([*tables, *others])

    def _needed(self, allocation: _Allocation, num_tokens: int) -> int:
        if num_tokens < 0:
            raise ValueError(f"{num_tokens} tokens cannot be appended; truncate takes tokens away")
        missing = allocation.num_tokens + num_tokens - len(allocation.table) * self.block_size
        added = -(-missing // self.block_size)  # missing > −block_size: never below 0
        return added + (num_tokens > 0 and self._writes_shared(allocation))

    def _writes_shared(self, allocation: _Allocation) -> bool:
        partly_filled = allocation.num_tokens % self.block_size
        return partly_filled != 0 and self.pool.references(allocation.table[-1]) > 1

    def _of(self, sequence: Hashable) -> _Allocation:
        try:
            return self._allocations[sequence]
        except KeyError:
            raise ValueError(
                f"there is no sequence {sequence!r}; it was never allocated, or freed already"
            ) from None
