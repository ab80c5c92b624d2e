"""A paged KV cache: keys and values in blocks, each sequence's found through its block table.

    token i of a sequence lies in slot (table[i // P], i % P) of every layer

Contract. What is read for a sequence is what was written for it, whoever it shares blocks with, and
whatever was done to others in between. Only slots of tokens that exist are read: all others hold
NaN until they are written, so that reading one shows at once. Writing replaces (a block's former
owner leaves no trace), and a block with more than one holder is never written. Preemption is `free`
and a second prefill.

With a prefix cache (`prefix_cache`), a prompt's shared beginning is not computed again:

    match = prefixes.match(prompt, salt)
    pages.allocate(sequence, match.num_tokens, match.blocks)
    rows = PagedRows(pages, [sequence])
    logits = decoder(prompt[match.num_tokens :], rows)           the rest of the prompt
    prefixes.insert(prompt, pages.block_table(sequence), salt)   for those who come after

Leaves out: kernels that follow the table on the device, codes in place of numbers, windows that
give back their oldest blocks.
Source: Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with
PagedAttention", sections 4.1 and 4.2.
Legend: L layers, N blocks, P tokens of a block, B sequences, T new tokens, S tokens, H query heads,
G kv heads, D head dim.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from .attention import attend_with_lse
from .block_allocator import BlockAllocator, BlockCopy
from .block_pool import OutOfBlocksError
from .cache import KVCache
from .kv_size import KVShape
from .masks import visible_keys
from .tiles import merge


class PagedKVCache(BlockAllocator):
    """A `BlockAllocator` with the memory that it allocates.

    Raises:
        ValueError: ``block_size`` is less than 1, ``num_blocks`` negative, or ``dtype`` no
            floating-point one.
    """

    def __init__(
        self,
        shape: KVShape,
        num_blocks: int,
        block_size: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(num_blocks, block_size)
        if not dtype.is_floating_point:
            raise ValueError(f"the dtype is {dtype}; give a floating-point one")
        self.shape = shape
        size = (shape.layers, num_blocks, block_size, shape.kv_heads, shape.head_dim)
        self.keys = torch.full(size, math.nan, dtype=dtype, device=device)  # [L, N, P, G, D]
        self.values = torch.full_like(self.keys, math.nan)  # [L, N, P, G, D]

    @property
    def block_nbytes(self) -> int:
        """Bytes of one block, keys and values of all layers."""
        return self.shape.nbytes(self.block_size, bytes_per_number=self.keys.element_size())

    def append(self, sequence: Hashable, num_tokens: int = 1) -> BlockCopy | None:
        """As `BlockAllocator.append`; the copy that it returns has been made already."""
        copy = super().append(sequence, num_tokens)
        if copy is not None:
            for pages in (self.keys, self.values):
                pages[:, copy.destination] = pages[:, copy.source]
        return copy

    def write(
        self, sequence: Hashable, layer: int, start: int, keys: Tensor, values: Tensor
    ) -> None:
        """Stores keys and values [G, T, D] of the tokens from ``start``, for which there is room.

        Raises:
            ValueError: there is no room (`append` makes it), the dtype is another one, or a block
                has other holders, who would see the change.
        """
        count = keys.shape[1]
        if keys.dtype != self.keys.dtype or values.dtype != self.keys.dtype:
            raise ValueError(
                f"keys are {keys.dtype}, values {values.dtype}; the cache keeps {self.keys.dtype}"
            )
        if not 0 <= start <= start + count <= self.num_tokens(sequence):
            raise ValueError(
                f"sequence {sequence!r} has room for tokens 0…{self.num_tokens(sequence) - 1}, not "
                f"for {start}…{start + count - 1}; append before writing"
            )
        first, end = start // self.block_size, self.blocks_for(start + count)
        blocks = self.block_table(sequence)[first:end]
        for block in blocks if count else ():
            if self.pool.references(block) > 1:
                raise ValueError(f"block {block} is shared; what is shared must not be written")
        table = torch.tensor(blocks, dtype=torch.int64, device=keys.device)
        places = torch.arange(start, start + count, device=keys.device)
        index = (table[places // self.block_size - first], places % self.block_size)  # [T] each
        self.keys[layer].index_put_(index, keys.transpose(0, 1))  # [T, G, D]
        self.values[layer].index_put_(index, values.transpose(0, 1))

    def gather(
        self, sequences: Sequence[Hashable], layer: int, length: int
    ) -> tuple[Tensor, Tensor]:
        """Copies of the first ``length`` keys and values of each sequence: [B, G, S, D].

        Raises:
            ValueError: a sequence has fewer tokens.
        """
        shorter = [s for s in sequences if self.num_tokens(s) < length]
        if shorter:
            raise ValueError(
                f"sequence {shorter[0]!r} has {self.num_tokens(shorter[0])} tokens, not {length}"
            )
        blocks = self.blocks_for(length)
        tables = torch.tensor(
            [self.block_table(sequence)[:blocks] for sequence in sequences],
            dtype=torch.int64,
            device=self.keys.device,
        ).view(len(sequences), blocks)
        keys, values = (
            pages[layer][tables].flatten(1, 2)[:, :length].transpose(1, 2)
            for pages in (self.keys, self.values)
        )
        return keys, values

    def attend(
        self,
        queries: Tensor,
        sequence: Hashable,
        layer: int,
        *,
        window: int | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """Causal attention of the last T tokens, [H, T, D], through the table: nothing is copied.

        Each block is a tile of its own, and the tiles are merged (`tiles.merge`). Blocks that lie
        before every query's window are not read.

        Raises:
            ValueError: there are no queries, or more than tokens.
        """
        length, count = self.num_tokens(sequence), queries.shape[1]
        if not 1 <= count <= length:
            raise ValueError(
                f"{count} queries of a sequence of {length} tokens; give 1 to {length}"
            )
        positions = torch.arange(length, device=queries.device)[None]  # [1, S]
        new = positions[:, length - count :]
        first_seen = 0 if window is None else max(0, length - count - window + 1)
        wide = queries.to(torch.promote_types(queries.dtype, torch.float32))[None]  # [1, H, T, D]
        parts = []
        for index, block in enumerate(self.block_table(sequence)):
            start, end = index * self.block_size, min((index + 1) * self.block_size, length)
            if end <= first_seen:
                continue
            keys, values = (
                pages[layer, block, : end - start].transpose(0, 1)[None]  # view: [1, G, ≤ P, D]
                for pages in (self.keys, self.values)
            )
            mask = visible_keys(new, positions[:, start:end], window=window)
            parts.append(attend_with_lse(wide, keys, values, mask, scale=scale))
        output, _ = merge(parts)
        return output[0].to(queries.dtype)


class PagedRows(KVCache):
    """Sequences of a paged cache as the rows of a batch: a `KVCache` like any other.

    The rows are as long as each other. `reorder` forks sequences: rows that come from the same one
    share its blocks until they differ.

    Args:
        pages: where keys and values are kept.
        sequences: sequences that exist, all their tokens written in all layers (a shared prefix);
            none: the first update starts a sequence for each of its rows.

    Raises:
        ValueError: the sequences differ in length; from `update`, rows or shapes do not fit.
        OutOfBlocksError: from `update`, when there is no room; no tokens are stored then.
    """

    def __init__(self, pages: PagedKVCache, sequences: Sequence[Hashable] = ()) -> None:
        super().__init__()
        self.pages = pages
        self.sequences = list(sequences)
        lengths = {pages.num_tokens(sequence) for sequence in sequences}
        if len(lengths) > 1:
            raise ValueError(f"rows have {sorted(lengths)} tokens; give sequences of one length")
        self._lengths = {layer: n for n in lengths for layer in range(pages.shape.layers)}

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        self._check(keys, values, layer)
        start, new = self.held_length(layer), keys.shape[2]
        if not self.sequences:
            self.sequences = [object() for _ in keys]
            for sequence in self.sequences:
                self.pages.allocate(sequence)
        self._make_room(start + new)
        for sequence, row_keys, row_values in zip(self.sequences, keys, values, strict=True):
            self.pages.write(sequence, layer, start, row_keys, row_values)
        self._lengths[layer] = start + new
        return self.logical_kv(layer)

    def logical_kv(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.pages.gather(self.sequences, layer, self._lengths[layer])

    def held_length(self, layer: int = 0) -> int:
        return self._lengths.get(layer, 0)

    def rows(self, layer: int = 0) -> int:
        return len(self.sequences)

    def crop(self, length: int) -> None:
        for held in self._lengths.values():
            if not 0 <= length <= held:
                raise ValueError(f"{length} tokens cannot be kept of {held}; give 0 to {held}")
        for sequence in self.sequences:
            self.pages.truncate(sequence, length)
        self._lengths = dict.fromkeys(self._lengths, length)

    def reorder(self, rows: Tensor) -> None:
        forks: list[Hashable] = [object() for _ in rows]
        for fork, row in zip(forks, rows.tolist(), strict=True):
            self.pages.fork(self.sequences[row], fork)
        self._free()
        self.sequences = forks

    def reset(self) -> None:
        self._free()
        self.sequences = []
        self._lengths.clear()

    def nbytes(self) -> int:
        """Bytes of the blocks that the rows occupy; shared ones count once."""
        blocks = {block for s in self.sequences for block in self.pages.block_table(s)}
        return len(blocks) * self.pages.block_nbytes

    def _make_room(self, length: int) -> None:
        """All rows or none get room for ``length`` tokens; the first layer of a step asks first."""
        grown = []
        try:
            for sequence in self.sequences:
                held = self.pages.num_tokens(sequence)
                if held < length:
                    self.pages.append(sequence, length - held)
                    grown.append((sequence, held))
        except OutOfBlocksError:
            for sequence, held in grown:
                self.pages.truncate(sequence, held)
            raise

    def _free(self) -> None:
        for sequence in self.sequences:
            self.pages.free(sequence)

    def _check(self, keys: Tensor, values: Tensor, layer: int) -> None:
        super()._check(keys, values, layer)
        shape = self.pages.shape
        expected = (len(self.sequences) or len(keys), shape.kv_heads, keys.shape[2], shape.head_dim)
        if tuple(keys.shape) != expected or keys.shape != values.shape:
            raise ValueError(
                f"keys {tuple(keys.shape)} and values {tuple(values.shape)} do not fit the rows "
                f"and pages; give {expected}"
            )
