"""A small paged KV cache that is right, and the same with faults that real ones have shipped.

Legend: L layers, B sequences, T new tokens, S tokens of a sequence, H query heads, G kv heads,
D head dim, N blocks, P tokens a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from infopt_suites.attention import PagedGeometry
from torch import Tensor

AREA = "2 paged KV caches"


class SmallPagedKV:
    """Tables of block ids over one pool [L, 2, N, P, G, D], each step a method."""

    capabilities = frozenset({"references", "pool", "attend", "runner"})

    def __init__(self, geometry: PagedGeometry) -> None:
        g = self.geometry = geometry
        shape = (g.layers, 2, g.num_blocks, g.block_size, g.kv_heads, g.head_dim)
        self.memory = torch.zeros(shape, dtype=g.dtype)
        self.free_list = list(range(g.num_blocks))
        self.owners = [0] * g.num_blocks
        self.tables: dict[int, list[int]] = {}
        self.lengths: dict[int, int] = {}
        self.delivered: dict[int, list[int]] = {}

    @property
    def num_free_blocks(self) -> int:
        return len(self.free_list)

    def block_table(self, sequence: int) -> Sequence[int]:
        return self.tables[sequence]

    def references(self, block: int) -> int:
        return self.owners[block]

    def pool(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.memory[layer, 0], self.memory[layer, 1]

    def runner_table(self, sequence: int) -> Sequence[int]:
        return self.delivered[sequence]

    def allocate(self, sequence: int) -> None:
        self.tables[sequence], self.lengths[sequence] = [], 0
        self.deliver(sequence)

    def can_append(self, sequence: int, num_tokens: int) -> bool:
        return self.needed(sequence, num_tokens) <= len(self.free_list)

    def needed(self, sequence: int, num_tokens: int) -> int:
        fresh = self.blocks_for(self.lengths[sequence] + num_tokens) - len(self.tables[sequence])
        return fresh + bool(num_tokens and self.writes_shared(sequence))

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.geometry.block_size)

    def writes_shared(self, sequence: int) -> bool:
        partly = self.lengths[sequence] % self.geometry.block_size != 0
        return partly and self.owners[self.tables[sequence][-1]] > 1

    def append(self, sequence: int, keys: Tensor, values: Tensor) -> None:
        count = keys.shape[2]
        if not self.can_append(sequence, count):
            raise MemoryError(f"too few blocks for {count} tokens")
        table, start = self.tables[sequence], self.lengths[sequence]
        if count and self.writes_shared(sequence):
            self.copy_last(sequence)
        while len(table) < self.blocks_for(start + count):
            table.append(self.take())
        for token in range(count):
            block, place = self.slot(sequence, start + token, token)
            for side, new in enumerate((keys, values)):
                self.write(side, block, place, new[:, :, token])
        self.lengths[sequence] = start + count
        self.deliver(sequence)

    def take(self) -> int:
        block = self.free_list.pop()
        self.owners[block] = 1
        return block

    def copy_last(self, sequence: int) -> None:
        table = self.tables[sequence]
        fresh = self.take()
        self.memory[:, :, fresh] = self.memory[:, :, table[-1]]
        self.give_back(table[-1])
        table[-1] = fresh

    def slot(self, sequence: int, position: int, token: int) -> tuple[int, int]:
        size = self.geometry.block_size
        return self.tables[sequence][position // size], position % size

    def write(self, side: int, block: int, place: int, new: Tensor) -> None:
        self.memory[:, side, block, place] = new

    def fork(self, parent: int, child: int) -> None:
        self.tables[child] = list(self.tables[parent])
        self.lengths[child] = self.lengths[parent]
        for block in self.tables[child]:
            self.owners[block] += 1
        self.deliver(child)

    def truncate(self, sequence: int, length: int) -> None:
        table = self.tables[sequence]
        while len(table) > self.kept_blocks(length):
            self.give_back(table.pop())
        self.lengths[sequence] = length
        self.deliver(sequence)

    def kept_blocks(self, length: int) -> int:
        return self.blocks_for(length)

    def give_back(self, block: int) -> None:
        self.owners[block] -= 1
        if self.owners[block] == 0:
            self.free_list.append(block)

    def free(self, sequence: int) -> None:
        for block in self.tables.pop(sequence):
            self.give_back(block)
        del self.lengths[sequence]

    def deliver(self, sequence: int) -> None:
        self.delivered[sequence] = list(self.tables[sequence])

    def read(self, sequence: int, layer: int) -> tuple[Tensor, Tensor]:
        length = self.read_length(sequence)
        keys, values = (
            memory[list(self.tables[sequence])].flatten(0, 1)[:length].transpose(0, 1)
            for memory in self.pool(layer)
        )
        return keys, values

    def read_length(self, sequence: int) -> int:
        return self.lengths[sequence]

    def attend(self, sequences: Sequence[int], queries: Tensor, layer: int) -> Tensor:
        slots = self.slots(sequences)
        return torch.stack(
            [
                self.attend_row(queries[row], *self.gathered(slots[row], layer))
                for row in range(len(sequences))
            ]
        )

    def slots(self, sequences: Sequence[int]) -> list[list[int]]:
        """Indices of the tokens of each sequence in a pool that is flat."""
        size = self.geometry.block_size
        return [
            [block * size + place for block in self.tables[s] for place in range(size)][
                : self.attended(s)
            ]
            for s in sequences
        ]

    def attended(self, sequence: int) -> int:
        return self.lengths[sequence]

    def gathered(self, slots: list[int], layer: int) -> tuple[Tensor, Tensor]:
        keys, values = (x.flatten(0, 1)[slots].transpose(0, 1) for x in self.pool(layer))
        return keys, values

    def attend_row(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        repeats, (count, held) = (
            queries.shape[0] // keys.shape[0],
            (queries.shape[1], keys.shape[1]),
        )
        keys, values = (x.repeat_interleave(repeats, dim=0) for x in (keys, values))
        scores = queries @ keys.mT / math.sqrt(queries.shape[-1])
        later = torch.ones(count, held).triu(self.diagonal(count, held)).bool()
        return scores.masked_fill(later, -math.inf).softmax(-1) @ values

    def diagonal(self, queries: int, keys: int) -> int:
        return keys - queries + 1


class WithoutForks(SmallPagedKV):
    """Sound: a fork is a copy that the caller writes, and nobody sees the memory."""

    capabilities = frozenset({"references", "attend"})
    can_fork = False

    def fork(self, parent: int, child: int) -> None:
        raise NotImplementedError("see can_fork")


class QuantizedPagedKV(SmallPagedKV):
    """8 bit, symmetric, with a scale [L, 2, N, P, G, 1] for each token and head."""

    capabilities = frozenset({"references", "attend", "quantized"})

    def __init__(self, geometry: PagedGeometry) -> None:
        super().__init__(geometry)
        self.scales = torch.zeros((*self.memory.shape[:-1], 1), dtype=geometry.dtype)

    def write(self, side: int, block: int, place: int, new: Tensor) -> None:
        scale = self.scale(side, block, place, new)
        self.scales[:, side, block, place] = scale
        codes = (new / scale.masked_fill(scale == 0, 1.0)).round().clamp(-127, 127)
        self.memory[:, side, block, place] = codes

    def scale(self, side: int, block: int, place: int, new: Tensor) -> Tensor:
        return new.abs().amax(-1, keepdim=True) / 127

    def pool(self, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = self.memory[layer] * self.scales_of(layer)
        return keys, values

    def scales_of(self, layer: int) -> Tensor:
        return self.scales[layer]

    def copy_last(self, sequence: int) -> None:
        old = self.tables[sequence][-1]
        super().copy_last(sequence)
        self.copy_scales(old, self.tables[sequence][-1])

    def copy_scales(self, old: int, new: int) -> None:
        self.scales[:, :, new] = self.scales[:, :, old]


class KnownPagedKV(QuantizedPagedKV):
    """Sound: blocks are found by all tokens up to their ends; a cut block is forgotten before it is
    written."""

    capabilities = QuantizedPagedKV.capabilities | {"prefixes"}

    def __init__(self, geometry: PagedGeometry) -> None:
        super().__init__(geometry)
        self.known: dict[tuple[int, ...], int] = {}
        self.kept: list[int] = []  # known blocks that nobody holds, the oldest first

    @property
    def num_free_blocks(self) -> int:
        return len(self.free_list) + len(self.kept)

    def can_append(self, sequence: int, num_tokens: int) -> bool:
        return self.needed(sequence, num_tokens) <= self.num_free_blocks

    def remember(self, sequence: int, token_ids: Sequence[int]) -> None:
        size = self.geometry.block_size
        for index in range(len(token_ids) // size):
            block = self.tables[sequence][index]
            if block not in self.known.values():
                self.known.setdefault(tuple(token_ids[: (index + 1) * size]), block)

    def allocate_known(self, sequence: int, token_ids: Sequence[int]) -> int:
        self.allocate(sequence)
        size, table = self.geometry.block_size, self.tables[sequence]
        for end in range(size, len(token_ids) + 1, size):
            block = self.known.get(tuple(token_ids[:end]))
            if block is None:
                break
            self.hold(block)
            table.append(block)
        self.lengths[sequence] = len(table) * size
        self.deliver(sequence)
        return self.lengths[sequence]

    def hold(self, block: int) -> None:
        self.owners[block] += 1
        if block in self.kept:
            self.kept.remove(block)

    def forget(self, block: int) -> None:
        self.known = {ids: other for ids, other in self.known.items() if other != block}

    def take(self) -> int:
        if not self.free_list:
            self.evict(self.kept.pop(0))
        return super().take()

    def evict(self, block: int) -> None:
        self.forget(block)
        self.free_list.append(block)

    def give_back(self, block: int) -> None:
        super().give_back(block)
        if self.owners[block] == 0 and block in self.known.values():
            self.free_list.remove(block)
            self.kept.append(block)

    def append(self, sequence: int, keys: Tensor, values: Tensor) -> None:
        partly = self.lengths[sequence] % self.geometry.block_size != 0
        if keys.shape[2] and partly and not self.writes_shared(sequence):
            self.written_after_a_cut(self.tables[sequence][-1])
        super().append(sequence, keys, values)

    def written_after_a_cut(self, block: int) -> None:
        self.forget(block)


class ScalesGoWithTheirOwner(KnownPagedKV):
    """C25: a known block that nobody holds keeps its codes alone."""

    def give_back(self, block: int) -> None:
        super().give_back(block)
        if self.owners[block] == 0:
            self.scales[:, :, block] = 1.0


class ScalesOfTheNewOwner(KnownPagedKV):
    """C25: who begins with known blocks begins with scales of its own."""

    def hold(self, block: int) -> None:
        super().hold(block)
        self.scales[:, :, block] = self.scales[:, :, block].amax()


class KnownBlocksAreWritten(KnownPagedKV):
    """C25: behind a cut, by who holds them alone."""

    def written_after_a_cut(self, block: int) -> None:
        pass


class EntryOutlivesItsBlock(KnownPagedKV):
    """C25: what was evicted is still found."""

    def evict(self, block: int) -> None:
        self.free_list.append(block)


class HeldAndEvicted(KnownPagedKV):
    """C25: a known block that is held again stays on the list of those to be evicted."""

    def hold(self, block: int) -> None:
        self.owners[block] += 1

    def take(self) -> int:
        self.kept = list(dict.fromkeys(self.kept))
        return super().take()


class ForkCountsItsOwnAlone(KnownPagedKV):
    """C25: a fork does not count the known blocks that it shares."""

    def fork(self, parent: int, child: int) -> None:
        super().fork(parent, child)
        for block in self.tables[child]:
            if block in self.known.values():
                self.owners[block] -= 1


class PreemptedBlocksRequantized(KnownPagedKV):
    """C25: what is found again after a preemption is decoded and rounded once more, to fewer
    bits."""

    def hold(self, block: int) -> None:
        if self.owners[block] == 0:
            self.memory[:, :, block] = (self.memory[:, :, block] / 16).round() * 16
        super().hold(block)


class ScalesNotCopied(QuantizedPagedKV):
    """A copy on write of codes alone: the copy has the scales of the block's last owner."""

    def copy_scales(self, old: int, new: int) -> None:
        pass


class ScaleOfTheBlocksFirstToken(QuantizedPagedKV):
    """Later tokens of a block are clipped."""

    def scale(self, side: int, block: int, place: int, new: Tensor) -> Tensor:
        own = super().scale(side, block, place, new)
        return own if place == 0 else self.scales[:, side, block, 0].clone()


class ScaleOfTheFormerOwner(QuantizedPagedKV):
    """A running maximum that a block's release does not set back."""

    def scale(self, side: int, block: int, place: int, new: Tensor) -> Tensor:
        own = super().scale(side, block, place, new)
        return torch.maximum(own, self.scales[:, side, block, place])


class ScalesOfTheNextBlock(QuantizedPagedKV):
    """Codes through the table, scales through another."""

    def scales_of(self, layer: int) -> Tensor:
        return self.scales[layer].roll(1, dims=1)


class NothingIsRounded(QuantizedPagedKV):
    """Not listed: the codes keep their fractions."""

    def write(self, side: int, block: int, place: int, new: Tensor) -> None:
        self.memory[:, side, block, place] = new
        self.scales[:, side, block, place] = 1.0


class CutIsCleared(SmallPagedKV):
    """Not listed: zeros where a sequence was cut off, which another one still reads."""

    def truncate(self, sequence: int, length: int) -> None:
        size = self.geometry.block_size
        for position in range(length, self.lengths[sequence]):
            block = self.tables[sequence][position // size]
            self.memory[:, :, block, position % size] = 0.0
        super().truncate(sequence, length)


class CutForAll(SmallPagedKV):
    """Not listed: blocks that are cut off go back to the free list, whoever else holds them."""

    def truncate(self, sequence: int, length: int) -> None:
        for block in self.tables[sequence][self.kept_blocks(length) :]:
            if self.owners[block] > 1:
                self.owners[block] = 1
        super().truncate(sequence, length)


class TypoInTheRefusal(SmallPagedKV):
    """Not listed: an append that has to be refused fails, and what it should do is not there."""

    def append(self, sequence: int, keys: Tensor, values: Tensor) -> None:
        if not self.can_append(sequence, keys.shape[2]):
            raise MemoryError(f"{self.num_blocks} blocks are in use")  # type: ignore[attr-defined]
        super().append(sequence, keys, values)


class TypoInTheSecondFree(SmallPagedKV):
    """Not listed: the same where a sequence is freed twice."""

    def free(self, sequence: int) -> None:
        if sequence not in self.tables:
            raise self.unknown_sequence(sequence)  # type: ignore[attr-defined]
        super().free(sequence)


class HiddenMemoryRead(SmallPagedKV):
    """Not listed: 0 · NaN from slots behind the end, in a pool that the suite doesn't see."""

    capabilities = frozenset({"references", "attend"})

    def read(self, sequence: int, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = super().read(sequence, layer)
        if self.lengths[sequence] % self.geometry.block_size:
            rest = self.pool(layer)[0][self.tables[sequence][-1]][-1]
            keys = keys + (rest * 0.0)[:, None]
        return keys, values


class HiddenMemoryAttended(HiddenMemoryRead):
    """Not listed: the same in attention alone."""

    def read(self, sequence: int, layer: int) -> tuple[Tensor, Tensor]:
        return SmallPagedKV.read(self, sequence, layer)

    def gathered(self, slots: list[int], layer: int) -> tuple[Tensor, Tensor]:
        keys, values = super().gathered(slots, layer)
        size = self.geometry.block_size
        rest = self.pool(layer)[1][slots[-1] // size][-1]
        return keys, values + (rest * 0.0)[:, None]


class WholePromptForEachChunk(SmallPagedKV):
    """K11: reads the slots that are reserved, not those written (GeeeekExplorer/nano-vllm#213)."""

    def attended(self, sequence: int) -> int:
        return len(self.tables[sequence]) * self.geometry.block_size


class MaskOfTheFirstKeys(SmallPagedKV):
    """K01, paged: a chunk's mask begins at the first key (Dao-AILab/flash-attention#282)."""

    def diagonal(self, queries: int, keys: int) -> int:
        return 1


class NoCopyOnWrite(SmallPagedKV):
    """K28: appends into a shared block (xLLM-AI/xllm#1984)."""

    def writes_shared(self, sequence: int) -> bool:
        return False


class CopyOfKeysAlone(SmallPagedKV):
    """K28, half repaired."""

    def copy_last(self, sequence: int) -> None:
        super().copy_last(sequence)
        self.memory[:, 1, self.tables[sequence][-1]] = 0.0


class CopyNotCounted(SmallPagedKV):
    """K28's block error: the copy needs a block that nobody asked for (vllm-project/vllm#417)."""

    def needed(self, sequence: int, num_tokens: int) -> int:
        return self.blocks_for(self.lengths[sequence] + num_tokens) - len(self.tables[sequence])


class CopiedBlockLost(SmallPagedKV):
    """Not listed: the reference to the block that was copied is not given back."""

    def copy_last(self, sequence: int) -> None:
        old = self.tables[sequence][-1]
        super().copy_last(sequence)
        self.owners[old] += 1


class WritesAddUp(SmallPagedKV):
    """K37: index_add into blocks that were used before (llmmanorg/llmman#118)."""

    def write(self, side: int, block: int, place: int, new: Tensor) -> None:
        self.memory[:, side, block, place] += new


class SlotsNotAligned(SmallPagedKV):
    """K51: slots of a batch laid end to end, not page to page (sgl-project/sglang-jax#20)."""

    def slots(self, sequences: Sequence[int]) -> list[list[int]]:
        size = self.geometry.block_size
        flat = [b * size + i for s in sequences for b in self.tables[s] for i in range(size)]
        starts = [0]
        for s in sequences:
            starts.append(starts[-1] + self.lengths[s])
        return [flat[a:b] for a, b in pairwise(starts)]


class DeltaSinceAllocation(SmallPagedKV):
    """K61: a preempted sequence's runner keeps what it had (RBLN-SW/vllm-rbln#662)."""

    def deliver(self, sequence: int) -> None:
        known = self.delivered.setdefault(sequence, [])
        table = self.tables[sequence]
        del known[len(table) :]
        known.extend(table[len(known) :])

    def allocate(self, sequence: int) -> None:
        self.tables[sequence], self.lengths[sequence] = [], 0


class FreedAtOnce(SmallPagedKV):
    """Not listed: a block is free when the first of its owners ends."""

    def give_back(self, block: int) -> None:
        self.owners[block] -= 1
        if block not in self.free_list:
            self.free_list.append(block)


class NeverGivenBack(SmallPagedKV):
    """Not listed: what truncation leaves is kept until the sequence ends."""

    def kept_blocks(self, length: int) -> int:
        return self.geometry.num_blocks


class OneBlockInAdvance(SmallPagedKV):
    """Not listed: a block more where the length is a multiple of P."""

    def blocks_for(self, tokens: int) -> int:
        return tokens // self.geometry.block_size + 1


class OneBlockTooFew(SmallPagedKV):
    """Not listed: the slot after the last wraps around into the block's first."""

    def slot(self, sequence: int, position: int, token: int) -> tuple[int, int]:
        block, place = super().slot(sequence, position, token)
        return (
            (block, place)
            if position != self.geometry.block_size
            else (
                self.tables[sequence][0],
                place,
            )
        )


class SlotOfTheChunk(SmallPagedKV):
    """Not listed: the place in a block is counted from the chunk's start."""

    def slot(self, sequence: int, position: int, token: int) -> tuple[int, int]:
        block, _ = super().slot(sequence, position, token)
        return block, token % self.geometry.block_size


class TakenBeforeCounted(SmallPagedKV):
    """Not listed: blocks are taken one by one, and not put back when they do not suffice."""

    def append(self, sequence: int, keys: Tensor, values: Tensor) -> None:
        if not self.can_append(sequence, keys.shape[2]):
            self.tables[sequence] += [self.take() for _ in self.free_list[:]]
        super().append(sequence, keys, values)


class FreedTwice(SmallPagedKV):
    """Not listed: a second free puts the blocks on the list again."""

    def free(self, sequence: int) -> None:
        self.ended = getattr(self, "ended", {})
        if sequence not in self.tables:
            self.free_list.extend(self.ended[sequence])
            return
        self.ended[sequence] = list(self.tables[sequence])
        super().free(sequence)


class RefusesTheLastBlock(SmallPagedKV):
    """Not listed: < for ≤, so that one block is never given."""

    def can_append(self, sequence: int, num_tokens: int) -> bool:
        return self.needed(sequence, num_tokens) < max(len(self.free_list), 1)


class ReadsTheLastBlockWhole(SmallPagedKV):
    """Not listed: a read to the end of the last block."""

    def attended(self, sequence: int) -> int:
        length = self.lengths[sequence]
        return length + (length % self.geometry.block_size > 1)


@dataclass(frozen=True)
class PagedMutant:
    fault: type[SmallPagedKV]
    broken: str


CONTIGUOUS = "test_sequences_read_as_if_they_were_contiguous"
WASTE = "test_waste_is_less_than_a_block"
FORKS = "test_forks_go_on_apart"
RECYCLED = "test_a_recycled_block_holds_nothing_of_its_former_owner"
REFUSAL = "test_a_refusal_changes_nothing"
GONE = "test_a_freed_sequence_is_gone"
ANY = "test_any_interleaving_keeps_every_sequence"
BATCH = "test_attention_in_a_batch_equals_attention_alone"
SHARED = "test_sequences_can_share_a_beginning"
UNREAD = "test_pages_without_tokens_are_never_read"
KNOWN = "test_known_blocks_keep_their_numbers"
CHUNKED = "test_chunked_prefill_equals_prefill_at_once"
MUTANTS = [
    PagedMutant(WholePromptForEachChunk, CHUNKED),
    PagedMutant(MaskOfTheFirstKeys, CHUNKED),
    PagedMutant(NoCopyOnWrite, FORKS),
    PagedMutant(NoCopyOnWrite, ANY),
    PagedMutant(CopyOfKeysAlone, FORKS),
    PagedMutant(CopyNotCounted, REFUSAL),
    PagedMutant(CopiedBlockLost, FORKS),
    PagedMutant(WritesAddUp, RECYCLED),
    PagedMutant(SlotsNotAligned, BATCH),
    PagedMutant(DeltaSinceAllocation, "test_the_runner_reads_the_tables_of_the_allocator"),
    PagedMutant(FreedAtOnce, GONE),
    PagedMutant(FreedAtOnce, ANY),
    PagedMutant(NeverGivenBack, WASTE),
    PagedMutant(OneBlockInAdvance, WASTE),
    PagedMutant(OneBlockTooFew, CONTIGUOUS),
    PagedMutant(SlotOfTheChunk, CONTIGUOUS),
    PagedMutant(TakenBeforeCounted, REFUSAL),
    PagedMutant(FreedTwice, GONE),
    PagedMutant(RefusesTheLastBlock, REFUSAL),
    PagedMutant(RefusesTheLastBlock, ANY),
    PagedMutant(ReadsTheLastBlockWhole, BATCH),
    PagedMutant(CutIsCleared, SHARED),
    PagedMutant(CutForAll, SHARED),
    PagedMutant(NoCopyOnWrite, SHARED),
    PagedMutant(ScalesNotCopied, SHARED),
    PagedMutant(ScalesNotCopied, FORKS),
    PagedMutant(ScalesNotCopied, ANY),
    PagedMutant(ScaleOfTheBlocksFirstToken, CONTIGUOUS),
    PagedMutant(ScaleOfTheFormerOwner, RECYCLED),
    PagedMutant(ScalesOfTheNextBlock, CONTIGUOUS),
    PagedMutant(ScalesGoWithTheirOwner, KNOWN),
    PagedMutant(ScalesOfTheNewOwner, KNOWN),
    PagedMutant(KnownBlocksAreWritten, KNOWN),
    PagedMutant(EntryOutlivesItsBlock, KNOWN),
    PagedMutant(HeldAndEvicted, KNOWN),
    PagedMutant(ForkCountsItsOwnAlone, KNOWN),
    PagedMutant(PreemptedBlocksRequantized, KNOWN),
    PagedMutant(ScalesGoWithTheirOwner, ANY),
    PagedMutant(NothingIsRounded, "test_numbers_are_really_rounded"),
    PagedMutant(TypoInTheRefusal, REFUSAL),
    PagedMutant(TypoInTheSecondFree, GONE),
    PagedMutant(HiddenMemoryRead, UNREAD),
    PagedMutant(HiddenMemoryAttended, BATCH),
]
SOUND = [SmallPagedKV, WithoutForks, QuantizedPagedKV, KnownPagedKV]


def claims(kind: type[SmallPagedKV]) -> dict[str, object]:
    """Class attributes of the suite on one of the caches."""
    names = ("capabilities", "can_fork")
    return {name: getattr(kind, name) for name in names if hasattr(kind, name)}
