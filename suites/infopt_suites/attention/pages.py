"""A paged cache with a record beside it of what each sequence must read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor

from .filled_cache import rounding_of_codes
from .oracle import plain_attention, rounding_bound
from .paged_protocol import (
    AttendingPagedKV,
    CountedPagedKV,
    DeliveredPagedKV,
    ExposedPagedKV,
    PagedGeometry,
    PagedKV,
    PrefixedPagedKV,
)
from .protocol import AttentionSpec
from .refusals import is_refused

JUNK = 1_000_000  # a sequence whose tokens nobody may read


class PagedContract(Protocol):
    """What the suite's class declares."""

    capabilities: ClassVar[Collection[str]]
    fork_copies: ClassVar[bool]
    can_truncate: ClassVar[bool]
    can_fork: ClassVar[bool]
    bits: ClassVar[int]
    float_codes: ClassVar[torch.dtype | None]
    dtype: ClassVar[torch.dtype]


@dataclass(frozen=True)
class Prompt:
    """Token ids, and their keys and values [L, G, S, D]."""

    ids: tuple[int, ...]
    tokens: tuple[Tensor, Tensor]

    def cut(self, first: int, end: int | None = None) -> Prompt:
        keys, values = (x[:, :, first:end] for x in self.tokens)
        return Prompt(self.ids[first:end], (keys, values))


class Pages:
    """A paged cache, and what each of its sequences must read."""

    def __init__(self, cache: PagedKV, geometry: PagedGeometry, contract: PagedContract) -> None:
        self.cache, self.geometry, self.contract = cache, geometry, contract
        self.capabilities = contract.capabilities
        self.truth: dict[int, tuple[Tensor, Tensor]] = {}  # [L, G, S, D] each
        self.ids: dict[int, tuple[int, ...]] = {}
        self._next_id = 0
        self.generator = torch.Generator().manual_seed(5)
        self.poison()
        self.poison_by_writing()

    @property
    def used(self) -> int:
        return self.geometry.num_blocks - self.cache.num_free_blocks

    def length(self, sequence: int) -> int:
        return self.truth[sequence][0].shape[2]

    def start(self, sequence: int) -> None:
        self.cache.allocate(sequence)
        empty = self._draw(0)
        self.truth[sequence], self.ids[sequence] = (empty, empty), ()

    def append(self, sequence: int, count: int) -> bool:
        """Append new tokens if there are blocks for them; see that the cache knows whether."""
        return self._write(sequence, (self._draw(count), self._draw(count)))

    def copied_by_fork(self, parent: int) -> int:
        """Blocks that a fork takes."""
        if not self.contract.can_fork:
            return -(-self.length(parent) // self.geometry.block_size)
        return int(self.contract.fork_copies and self.length(parent) % self.geometry.block_size > 0)

    def fork(self, parent: int, child: int) -> bool:
        """Fork if there are blocks for what is copied; write a copy where there are no forks."""
        if self.copied_by_fork(parent) > self.cache.num_free_blocks:
            return False
        if not self.contract.can_fork:
            self.start(child)
            return self._write(child, self.truth[parent], self.ids[parent])
        self.cache.fork(parent, child)
        self.truth[child], self.ids[child] = self.truth[parent], self.ids[parent]
        return True

    def remember(self, sequence: int) -> Prompt:
        """Make the full blocks of a sequence known."""
        prompt = Prompt(self.ids[sequence], self.truth[sequence])
        cast(PrefixedPagedKV, self.cache).remember(sequence, prompt.ids)
        return prompt

    def begin(self, sequence: int, prompt: Prompt, length: int) -> int:
        """Start a sequence with the known blocks of so many tokens, and write the rest of them.

        Returns how many tokens were known.
        """
        wanted = prompt.cut(0, length)
        found = cast(PrefixedPagedKV, self.cache).allocate_known(sequence, wanted.ids)
        size = self.geometry.block_size
        assert found in range(0, len(wanted.ids) + 1, size), (
            f"{found} of {len(wanted.ids)} tokens are said to be known, in full blocks of {size}"
        )
        known, rest = wanted.cut(0, found), wanted.cut(found)
        self.truth[sequence], self.ids[sequence] = known.tokens, known.ids
        self._write(sequence, rest.tokens, rest.ids)
        return found

    def truncate(self, sequence: int, length: int) -> None:
        keys, values = self.truth[sequence]
        kept = keys[:, :, :length], values[:, :, :length]
        if not self.contract.can_truncate:
            ids = self.ids[sequence][:length]
            self.free(sequence)
            self.start(sequence)
            self._write(sequence, kept, ids)
            return
        self.cache.truncate(sequence, length)
        self.truth[sequence], self.ids[sequence] = kept, self.ids[sequence][:length]

    def free(self, sequence: int) -> None:
        self.cache.free(sequence)
        del self.truth[sequence], self.ids[sequence]

    def preempt(self, sequence: int) -> None:
        """Free a sequence and compute it again, if there are blocks for it."""
        prompt = Prompt(self.ids[sequence], self.truth[sequence])
        self.free(sequence)
        if "prefixes" in self.capabilities:
            self.begin(sequence, prompt, len(prompt.ids))
            return
        self.start(sequence)
        self._write(sequence, prompt.tokens, prompt.ids)

    def poison(self) -> None:
        """Fill what no sequence holds with NaN; but for what may still be found."""
        if "pool" not in self.capabilities or "prefixes" in self.capabilities:
            return
        held = {block for sequence in self.truth for block in self.cache.block_table(sequence)}
        free = [block for block in range(self.geometry.num_blocks) if block not in held]
        for layer in range(self.geometry.layers):
            for memory in cast(ExposedPagedKV, self.cache).pool(layer):
                codes = not memory.is_floating_point()
                memory[free] = torch.iinfo(memory.dtype).max if codes else math.nan

    def poison_by_writing(self) -> None:
        """The same where memory can't be reached: a sequence of NaN in all free blocks, which ends.

        Numbers that are rounded are large ones instead: of NaN there are no codes.
        """
        g, free = self.geometry, self.cache.num_free_blocks
        if ("pool" in self.capabilities and "prefixes" not in self.capabilities) or not free:
            return
        junk = 1000.0 if "quantized" in self.capabilities else math.nan
        shape = g.layers, g.kv_heads, free * g.block_size, g.head_dim
        tokens = torch.full(shape, junk, dtype=g.dtype, device=g.device)
        self.cache.allocate(JUNK)
        self.cache.append(JUNK, tokens, tokens)
        self.cache.free(JUNK)

    def check(self) -> None:
        """Raise AssertionError unless tables are right and every sequence reads its tokens."""
        tables = {sequence: list(self.cache.block_table(sequence)) for sequence in self.truth}
        self._check_blocks(tables)
        for sequence, written in self.truth.items():
            for layer in range(self.geometry.layers):
                found = self.cache.read(sequence, layer)
                for name, tensor, truth in zip(("keys", "values"), found, written, strict=True):
                    same = self._same(tensor, truth[layer], f"sequence {sequence}: {name}")
                    wrong = sorted({int(i) for i in (~same).any(-1).any(0).nonzero()})
                    assert not wrong, (
                        f"sequence {sequence} in {tables[sequence]} reads other {name} than were "
                        f"written for its tokens {wrong} in layer {layer}"
                    )

    def attend(self, sequences: Sequence[int], count: int) -> None:
        """Attend with the last ``count`` tokens of each; compare with the definition."""
        layer, heads = self.geometry.layers - 1, 2 * self.geometry.kv_heads
        shape = len(sequences), heads, count, self.geometry.head_dim
        queries = torch.randn(shape, generator=self.generator)
        queries = queries.to(self.geometry.device, self.geometry.dtype)
        output = cast(AttendingPagedKV, self.cache).attend(sequences, queries, layer)
        for row, sequence in enumerate(sequences):
            held = self.cache.read(sequence, layer)
            if "quantized" not in self.capabilities:
                held = self.truth[sequence][0][layer], self.truth[sequence][1][layer]
            keys, values = (x[None] for x in held)
            alone = queries[row : row + 1]
            expected, _ = plain_attention(alone, keys, values, AttentionSpec())
            allowed = rounding_bound(alone, keys, values, self.geometry.dtype)
            off = (output[row].double() - expected[0]).abs()
            assert bool((off <= allowed).all()), (
                f"row {row}, the last {count} of {keys.shape[2]} tokens: off by {off.max():.6g}"
            )

    def _same(self, found: Tensor, written: Tensor, what: str) -> Tensor:
        """Which numbers [G, S, D] came back: exactly, or within a step of their bits."""
        assert found.shape == written.shape, (
            f"{what} are {list(found.shape)}, and {list(written.shape)} were written"
        )
        if "quantized" not in self.capabilities or not written.numel():
            return found == written  # a NaN is the same as nothing
        allowed = rounding_of_codes(written, written.abs().double().max(), self.contract)
        return (found.double() - written.double()).abs() <= allowed

    def _draw(self, count: int) -> Tensor:
        g = self.geometry
        drawn = torch.randn(g.layers, g.kv_heads, count, g.head_dim, generator=self.generator)
        return drawn.to(g.device, g.dtype)

    def _write(
        self, sequence: int, tokens: tuple[Tensor, Tensor], ids: Sequence[int] | None = None
    ) -> bool:
        count = tokens[0].shape[2]
        if ids is None:
            ids = range(self._next_id, self._next_id + count)
            self._next_id += count
        needed, free = self._needed(sequence, count), self.cache.num_free_blocks
        fits = needed <= free
        said = self.cache.can_append(sequence, count)
        if needed == free and self._writes_behind_a_cut(sequence, count):
            fits = said
        assert said == fits, (
            f"can_append says {said}: {count} tokens need {needed} blocks, {free} are free"
        )
        if fits:
            self.cache.append(sequence, *(x.clone() for x in tokens))
            self.truth[sequence] = (
                torch.cat([self.truth[sequence][0], tokens[0]], dim=2),
                torch.cat([self.truth[sequence][1], tokens[1]], dim=2),
            )
            self.ids[sequence] += tuple(ids)
        else:
            self._must_refuse(sequence, tokens)
        self.poison()
        return fits

    def _needed(self, sequence: int, count: int) -> int:
        """New blocks for more tokens; one more to copy a last block that others write behind."""
        size, length = self.geometry.block_size, self.length(sequence)
        added = -(-(length + count) // size) - -(-length // size)
        if not count or length % size == 0:
            return added
        last = self.cache.block_table(sequence)[-1]
        owners = sum(last in self.cache.block_table(other) for other in self.truth)
        return added + (owners > 1)

    def _writes_behind_a_cut(self, sequence: int, count: int) -> bool:
        """Whether a known block may be written, which is then forgotten, or copied into another."""
        partly = self.length(sequence) % self.geometry.block_size > 0
        return "prefixes" in self.capabilities and partly and count > 0

    def _must_refuse(self, sequence: int, tokens: tuple[Tensor, Tensor]) -> None:
        refused = is_refused(lambda: self.cache.append(sequence, *tokens))
        assert refused, "append succeeded though can_append had said no"
        self.check()

    def _check_blocks(self, tables: dict[int, list[int]]) -> None:
        owners = Counter(block for table in tables.values() for block in table)
        free = self.cache.num_free_blocks
        assert free + len(owners) == self.geometry.num_blocks, (
            f"{free} blocks are free and {len(owners)} in tables, of {self.geometry.num_blocks}"
        )
        for sequence, table in tables.items():
            wanted = -(-self.length(sequence) // self.geometry.block_size)
            assert len(table) == wanted, f"{len(table)} blocks for {self.length(sequence)} tokens"
            assert len(set(table)) == len(table), f"a block is twice in the table {table}"
            strange = [block for block in table if not 0 <= block < self.geometry.num_blocks]
            assert not strange, f"blocks {strange} of {self.geometry.num_blocks} are in a table"
            if "runner" in self.capabilities:
                seen = list(cast(DeliveredPagedKV, self.cache).runner_table(sequence))
                assert seen == table, f"the runner reads {seen}, the allocator wrote {table}"
        if "references" in self.capabilities:
            for block in range(self.geometry.num_blocks):
                counted = cast(CountedPagedKV, self.cache).references(block)
                assert counted == owners[block], (
                    f"block {block} counts {counted} references and is in {owners[block]} tables"
                )
