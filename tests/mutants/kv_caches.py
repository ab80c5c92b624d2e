"""Small KV caches that are right, and the same with faults that real ones have shipped.

Legend: L layers, B batch, T new tokens, S tokens, G kv heads, D head dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from infopt_suites.attention import CacheGeometry
from torch import Tensor

AREA = "2 KV caches"
Pair = tuple[Tensor, Tensor]


class GrowingCache:
    """Grows by concatenation and keeps the window − 1 tokens that the next one sees."""

    capabilities = frozenset(
        {"mask-sizes", "window", "full", "crop", "drop", "reorder", "reset", "logical", "bytes"}
    )

    def __init__(self, geometry: CacheGeometry) -> None:
        self.geometry = geometry
        self.window = geometry.window
        self.reset()

    def reset(self) -> None:
        shape = (self.geometry.batch, self.geometry.kv_heads, 0, self.geometry.head_dim)
        empty = torch.zeros(shape, dtype=self.geometry.dtype)
        self.stored: list[Pair] = [(empty, empty) for _ in range(self.geometry.layers)]
        self.lengths = [0] * self.geometry.layers

    def update(self, keys: Tensor, values: Tensor, layer: int) -> Pair:
        joined = self.join(self.stored[layer], (keys, values))
        self.lengths[layer] += keys.shape[2]
        self.stored[layer] = self.kept(joined, layer)
        return self.returned(joined, keys.shape[2])

    def join(self, old: Pair, new: Pair) -> Pair:
        return torch.cat([old[0], new[0]], dim=2), torch.cat([old[1], new[1]], dim=2)

    def kept(self, joined: Pair, layer: int) -> Pair:
        if self.window is None:
            return joined
        first = max(joined[0].shape[2] - self.window + 1, 0)
        return joined[0][:, :, first:].clone(), joined[1][:, :, first:].clone()

    def returned(self, joined: Pair, count: int) -> Pair:
        return joined

    def get_seq_length(self, layer: int = 0) -> int:
        return self.lengths[layer]

    def get_mask_sizes(self, query_length: int, layer: int) -> tuple[int, int]:
        held = self.lengths[layer]
        if self.window is not None:
            held = min(held, self.window - 1)
        return held + query_length, self.lengths[layer] - held

    def crop(self, length: int) -> None:
        for layer, (keys, values) in enumerate(self.stored):
            self.stored[layer] = keys[:, :, :length].clone(), values[:, :, :length].clone()
            self.lengths[layer] = length

    def drop(self, start: int, stop: int) -> None:
        for layer, (keys, values) in enumerate(self.stored):
            self.stored[layer] = self.without(keys, start, stop), self.without(values, start, stop)
            self.lengths[layer] -= stop - start

    def without(self, x: Tensor, start: int, stop: int) -> Tensor:
        return torch.cat([x[:, :, :start], x[:, :, stop:]], dim=2)

    def reorder(self, rows: Tensor) -> None:
        self.stored = [(keys[rows], values[rows]) for keys, values in self.stored]

    def logical_kv(self, layer: int) -> Pair:
        return self.stored[layer]

    def nbytes(self) -> int:
        return sum(x.untyped_storage().nbytes() for pair in self.stored for x in pair)


class RolledOneStepEarly(GrowingCache):
    """K08: the oldest token leaves when the window is reached (huggingface/transformers#37574)."""

    def kept(self, joined: Pair, layer: int) -> Pair:
        keys, values = super().kept(joined, layer)
        if self.window is not None and self.lengths[layer] == self.window:
            return keys[:, :, 1:], values[:, :, 1:]
        return keys, values


class WindowOfTheChunk(GrowingCache):
    """K08, in prefill: what is returned is cut to the window, whose early queries see more."""

    def returned(self, joined: Pair, count: int) -> Pair:
        return (
            joined
            if self.window is None
            else (
                joined[0][:, :, -self.window :],
                joined[1][:, :, -self.window :],
            )
        )


class MaskOfTheWindowAlone(GrowingCache):
    """K64: everything is returned, the mask is for the window (huggingface/transformers#48280)."""

    def kept(self, joined: Pair, layer: int) -> Pair:
        return joined


class LengthOfTheWindow(GrowingCache):
    """K03's cause: the length is that of the buffer, so positions stand still."""

    def get_seq_length(self, layer: int = 0) -> int:
        return self.stored[layer][0].shape[2]


class NotReordered(GrowingCache):
    """K57: beams are reordered elsewhere only (huggingface/transformers#46612)."""

    def reorder(self, rows: Tensor) -> None:
        pass


class ReorderedInTheFirstLayer(GrowingCache):
    """K57: other layers' names differ (PaddlePaddle/PaddleNLP#6672)."""

    def reorder(self, rows: Tensor) -> None:
        keys, values = self.stored[0]
        self.stored[0] = keys[rows], values[rows]
        self.stored[1:] = [(k[: len(rows)], v[: len(rows)]) for k, v in self.stored[1:]]


class ReorderedAlongHeads(GrowingCache):
    """K57: gathered on the wrong axis (PaddlePaddle/PaddleNLP#6672)."""

    def reorder(self, rows: Tensor) -> None:
        heads = torch.arange(self.geometry.kv_heads)
        heads = (heads + rows[0]) % self.geometry.kv_heads
        self.stored = [(k[: len(rows), heads], v[: len(rows), heads]) for k, v in self.stored]


class LengthNotCropped(GrowingCache):
    """Not listed: tensors are cropped, the counter stays."""

    def crop(self, length: int) -> None:
        lengths = list(self.lengths)
        super().crop(length)
        self.lengths = lengths


class LengthCroppedAlone(GrowingCache):
    """As in mlx-lm's ConcatenateKVCache: the counter moves back, rejected tokens stay."""

    def crop(self, length: int) -> None:
        self.lengths = [length] * len(self.lengths)


class KeepsTheFirstTensor(GrowingCache):
    """Not listed: an empty cache is filled with the caller's own tensor."""

    def join(self, old: Pair, new: Pair) -> Pair:
        return super().join(old, new) if old[0].shape[2] else new


class CounterOfAllLayers(GrowingCache):
    """Not listed: every layer's update moves the one counter on."""

    def get_seq_length(self, layer: int = 0) -> int:
        return sum(self.lengths) // len(self.lengths)


class KeepsWhatTheWindowLeft(GrowingCache):
    """Not listed: a slice is kept, and with it the whole tensor."""

    def kept(self, joined: Pair, layer: int) -> Pair:
        if self.window is None:
            return joined
        self.history = [*getattr(self, "history", []), joined]
        return super().kept(joined, layer)

    def nbytes(self) -> int:
        history = [x for pair in getattr(self, "history", []) for x in pair]
        return super().nbytes() + sum(x.untyped_storage().nbytes() for x in history)


class CounterSurvivesReset(GrowingCache):
    """Not listed: a second conversation starts where the first one ended."""

    def reset(self) -> None:
        lengths = getattr(self, "lengths", None)
        super().reset()
        self.lengths = lengths or self.lengths


class LogicalBeforeTheCrop(GrowingCache):
    """Not listed: what is taken back is forgotten at the next update, and read until then."""

    def crop(self, length: int) -> None:
        self.before = list(self.stored)
        super().crop(length)

    def update(self, keys: Tensor, values: Tensor, layer: int) -> Pair:
        self.before = []
        return super().update(keys, values, layer)

    def logical_kv(self, layer: int) -> Pair:
        return self.before[layer] if getattr(self, "before", []) else super().logical_kv(layer)


class LogicalBeforeTheReorder(LogicalBeforeTheCrop):
    """Not listed: beams are gathered lazily, and a reader sees the old ones."""

    def crop(self, length: int) -> None:
        GrowingCache.crop(self, length)

    def reorder(self, rows: Tensor) -> None:
        self.before = [(k[: len(rows)], v[: len(rows)]) for k, v in self.stored]
        super().reorder(rows)


class MaskOfTheUncropped(GrowingCache):
    """Not listed: the mask's width is kept from the last update."""

    def crop(self, length: int) -> None:
        self.mask = [GrowingCache.get_mask_sizes(self, 1, i) for i in range(len(self.lengths))]
        super().crop(length)

    def update(self, keys: Tensor, values: Tensor, layer: int) -> Pair:
        self.mask = []
        return super().update(keys, values, layer)

    def get_mask_sizes(self, query_length: int, layer: int) -> tuple[int, int]:
        if getattr(self, "mask", []) and query_length == 1:
            width, offset = self.mask[layer]
            return width, offset + self.lengths[layer]
        return super().get_mask_sizes(query_length, layer)


class MaskAfterReset(GrowingCache):
    """Not listed: a new conversation's first mask is as wide as the last one's."""

    old = 0

    def reset(self) -> None:
        self.old = max(getattr(self, "lengths", [0]))
        super().reset()

    def get_mask_sizes(self, query_length: int, layer: int) -> tuple[int, int]:
        width, offset = super().get_mask_sizes(query_length, layer)
        return width, offset if self.lengths[layer] else self.old


class StopIsDroppedToo(GrowingCache):
    """Context shift: one token too many."""

    def without(self, x: Tensor, start: int, stop: int) -> Tensor:
        return super().without(x, start, stop + 1)


class KeysMoveAlone(GrowingCache):
    """Context shift: keys are turned and moved, values are cut at the end."""

    def drop(self, start: int, stop: int) -> None:
        for layer, (keys, values) in enumerate(self.stored):
            kept = keys.shape[2] - stop + start
            self.stored[layer] = self.without(keys, start, stop), values[:, :, :kept]
            self.lengths[layer] = kept


class CounterStaysAfterADrop(GrowingCache):
    """Context shift: positions go on where they were."""

    def drop(self, start: int, stop: int) -> None:
        lengths = list(self.lengths)
        super().drop(start, stop)
        self.lengths = lengths


class RingCache(GrowingCache):
    """A ring of as many slots as the window, or as the capacity, given as it lies."""

    capabilities = frozenset({"positions", "window", "full", "reorder", "reset"})

    def reset(self) -> None:
        g = self.geometry
        self.slots = self.window or g.capacity
        shape = (g.batch, g.kv_heads, self.slots, g.head_dim)
        junk = torch.full(shape, 55.0, dtype=g.dtype)
        self.stored = [(junk.clone(), junk.clone()) for _ in range(g.layers)]
        self.lengths = [0] * g.layers
        self.columns: list[list[int]] = [[] for _ in range(g.layers)]

    def update(self, keys: Tensor, values: Tensor, layer: int) -> Pair:
        start, count = self.lengths[layer], keys.shape[2]
        before = self.tokens_before(start)
        returned = self.join(self.stored[layer], (keys, values))
        for token in range(max(count - self.slots, 0), count):
            for ring, new in zip(self.stored[layer], (keys, values), strict=True):
                ring[:, :, self.slot(start + token)] = new[:, :, token]
        self.lengths[layer] += count
        self.columns[layer] = [*before, *range(start, start + count)]
        if count == 1:
            self.columns[layer] = self.tokens_before(start + 1)
            returned = self.stored[layer][0].clone(), self.stored[layer][1].clone()
        return returned

    def slot(self, token: int) -> int:
        return token % self.slots

    def tokens_before(self, length: int) -> list[int]:
        """The token in each slot, of ``length`` that were written; −1 where none is."""
        return [
            self.empty_slot()
            if slot >= length
            else slot + (length - 1 - slot) // self.slots * self.slots
            for slot in range(self.slots)
        ]

    def empty_slot(self) -> int:
        return -1

    def key_positions(self, layer: int) -> Tensor:
        return torch.tensor(self.columns[layer])


class RingOfShortChunks(RingCache):
    """Sound: refuses more tokens at a time than it has slots."""

    capabilities = RingCache.capabilities - {"full"}
    chunks_within_window = True

    def update(self, keys: Tensor, values: Tensor, layer: int) -> Pair:
        if keys.shape[2] > self.slots:
            raise ValueError(f"{keys.shape[2]} tokens for a ring of {self.slots}")
        return super().update(keys, values, layer)


class RingTurnedByOne(RingCache):
    """A ring: positions are told from the next slot on."""

    def key_positions(self, layer: int) -> Tensor:
        return super().key_positions(layer).roll(1)


class RingWrittenFirst(RingCache):
    """A ring: a chunk overwrites what its first queries see."""

    def join(self, old: Pair, new: Pair) -> Pair:
        count = min(new[0].shape[2], self.slots)
        for ring, x in zip(old, new, strict=True):
            ring[:, :, :count] = x[:, :, -count:]
        return super().join(old, new)


class EmptySlotsAreTheFirstToken(RingCache):
    """A ring: slots that nobody wrote stand at position 0."""

    def empty_slot(self) -> int:
        return 0


class GrowsInSteps(GrowingCache):
    """Sound: memory for eight tokens at a time."""

    growth = 8

    def nbytes(self) -> int:
        return sum(x[:, :, :1].nbytes * self.room(x.shape[2]) for p in self.stored for x in p)

    def room(self, tokens: int) -> int:
        return -(-tokens // self.growth) * self.growth


class GrowsByHalf(GrowsInSteps):
    """Not listed: half as much again, beside the declared step."""

    def room(self, tokens: int) -> int:
        return super().room(tokens + tokens // 2 + self.growth)


class StaticCache:
    """Flat buffers [L, B · G · capacity · D], written head by head."""

    capabilities = frozenset(
        {"full", "mask-sizes", "crop", "drop", "reset", "bytes", "logical", "reorder"}
    )

    def __init__(self, geometry: CacheGeometry) -> None:
        self.geometry = geometry
        self.lengths = [0] * geometry.layers
        self.batch = geometry.batch
        self.flat = [self.buffer() for _ in range(2 * geometry.layers)]

    def buffer(self) -> Tensor:
        g = self.geometry
        return torch.zeros(g.batch * g.kv_heads * g.capacity * g.head_dim, dtype=g.dtype)

    def view(self, layer: int) -> Pair:
        g = self.geometry
        shape = (self.batch, g.kv_heads, g.capacity, g.head_dim)
        keys, values = (x.view(shape) for x in self.flat[2 * layer : 2 * layer + 2])
        return keys, values

    def update(self, keys: Tensor, values: Tensor, layer: int) -> Pair:
        start, count = self.lengths[layer], keys.shape[2]
        for flat, new in zip(self.flat[2 * layer : 2 * layer + 2], (keys, values), strict=True):
            for row in range(new.shape[0]):
                for head in range(new.shape[1]):
                    first = self.first(row, head, start, count)
                    width = count * new.shape[3]
                    flat[first : first + width] = self.merged(
                        flat[first : first + width], new[row, head].reshape(-1)
                    )
        self.lengths[layer] += count
        return self.view(layer)

    def first(self, row: int, head: int, start: int, count: int) -> int:
        g = self.geometry
        return ((row * g.kv_heads + head) * g.capacity + start) * g.head_dim

    def merged(self, old: Tensor, new: Tensor) -> Tensor:
        return new

    def get_seq_length(self, layer: int = 0) -> int:
        return self.lengths[layer]

    def get_mask_sizes(self, query_length: int, layer: int) -> tuple[int, int]:
        return self.geometry.capacity, 0

    def crop(self, length: int) -> None:
        self.lengths = [length] * len(self.lengths)

    def drop(self, start: int, stop: int) -> None:
        for layer, length in enumerate(self.lengths):
            for x in self.view(layer):
                x[:, :, start : start + length - stop] = x[:, :, stop:length].clone()
            self.lengths[layer] = length - stop + start

    def reset(self) -> None:
        self.lengths = [0] * len(self.lengths)

    def reorder(self, rows: Tensor) -> None:
        self.flat = [x.view(self.batch, -1)[rows].reshape(-1) for x in self.flat]
        self.batch = len(rows)

    def logical_kv(self, layer: int) -> Pair:
        keys, values = self.view(layer)
        return keys[:, :, : self.lengths[layer]], values[:, :, : self.lengths[layer]]

    def nbytes(self) -> int:
        return sum(x.untyped_storage().nbytes() for x in self.flat)


class StrideOfTheChunk(StaticCache):
    """K52: h · T + t in a buffer of capacity tokens a head (tenstorrent/tt-metal#54742)."""

    def first(self, row: int, head: int, start: int, count: int) -> int:
        g = self.geometry
        return (row * g.kv_heads * g.capacity + head * count + start) * g.head_dim


class WritesAddUp(StaticCache):
    """K37: += into slots that were used before (llmmanorg/llmman#118)."""

    def merged(self, old: Tensor, new: Tensor) -> Tensor:
        return old + new


class OneSlotInReserve(StaticCache):
    """Not listed: ≥ for > in the check for room."""

    def update(self, keys: Tensor, values: Tensor, layer: int) -> Pair:
        if self.lengths[layer] + keys.shape[2] >= self.geometry.capacity:
            raise AssertionError("the cache is full")
        return super().update(keys, values, layer)


class LastSlotIsTheFirst(StaticCache):
    """Not listed: positions modulo one slot less than there are."""

    def first(self, row: int, head: int, start: int, count: int) -> int:
        full = start + count == self.geometry.capacity
        return super().first(row, head, start if not full else 0, count)


class LastSlotNotRead(StaticCache):
    """Not listed: an end that is taken for the last index."""

    def update(self, keys: Tensor, values: Tensor, layer: int) -> Pair:
        held = super().update(keys, values, layer)
        if self.lengths[layer] == self.geometry.capacity:
            held = held[0].clone(), held[1].clone()
            held[0][:, :, -1] = 0.0
        return held


class QuantizedCache:
    """8 bit, symmetric, one scale a token, head and row; the newest ``residual`` as they are."""

    capabilities = frozenset({"quantized", "full", "crop", "reset", "reorder", "bytes", "logical"})
    residual = 3
    head_dim = 16

    def __init__(self, geometry: CacheGeometry) -> None:
        self.geometry = geometry
        self.reset()

    def reset(self) -> None:
        self.plain = GrowingCache(self.geometry)
        self.old: list[list[Any]] = [[] for _ in range(self.geometry.layers)]  # codes and scales

    def update(self, keys: Tensor, values: Tensor, layer: int) -> Pair:
        self.plain.update(keys, values, layer)
        newest = self.plain.stored[layer]
        flushed = self.flushed(newest[0].shape[2], keys.shape[2])
        if flushed:
            self.old[layer].append([self.encode(x[:, :, :flushed]) for x in newest])
            self.plain.stored[layer] = (
                newest[0][:, :, flushed:].clone(),
                newest[1][:, :, flushed:].clone(),
            )
        return self.logical_kv(layer)

    def flushed(self, held: int, written: int) -> int:
        return max(held - self.residual, 0)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.scale(x)
        safe = scale.masked_fill(scale == 0, 1.0)
        return (x / safe).round().clamp(-127, 127).to(torch.int8), scale

    def scale(self, x: Tensor) -> Tensor:
        return x.abs().amax(-1, keepdim=True) / 127

    def logical_kv(self, layer: int) -> Pair:
        joined = []
        for side in range(2):
            parts = [codes.float() * scale for codes, scale in (p[side] for p in self.old[layer])]
            joined.append(torch.cat([*parts, self.plain.stored[layer][side]], dim=2))
        return joined[0], joined[1]

    def get_seq_length(self, layer: int = 0) -> int:
        return self.plain.lengths[layer]

    def crop(self, length: int) -> None:
        for layer in range(self.geometry.layers):
            keys, values = (x[:, :, :length] for x in self.logical_kv(layer))
            self.old[layer] = []
            self.plain.stored[layer] = keys, values
            self.plain.lengths[layer] = length

    def reorder(self, rows: Tensor) -> None:
        self.plain.reorder(rows)
        for parts in self.old:
            for part in parts:
                part[:] = [(codes[rows], scale[rows]) for codes, scale in part]

    def nbytes(self) -> int:
        kept = [x for parts in self.old for part in parts for pair in part for x in pair]
        return self.plain.nbytes() + sum(x.untyped_storage().nbytes() for x in kept)


class ResidualOfTheCall(QuantizedCache):
    """K49: decoding never quantizes (rajveer43/VeloxQuant-MLX#86)."""

    def flushed(self, held: int, written: int) -> int:
        return 0 if written <= self.residual else max(held - self.residual, 0)


class GroupsOfOneNumber(QuantizedCache):
    """K49: flushed one by one, a group's ends are all there is (rajveer43/VeloxQuant-MLX#163)."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x.sign().to(torch.int8), x.abs()) if x.shape[2] == 1 else super().encode(x)


class ScaleOfTheFirstTokens(QuantizedCache):
    """K56: frozen on the first update (kekzl/imp#89, Avarok-Cybersecurity/atlas#1041)."""

    def scale(self, x: Tensor) -> Tensor:
        if not hasattr(self, "frozen"):
            self.frozen = super().scale(x).amax()
        return super().scale(x) * 0 + self.frozen


class ScaleOfTheWarmUp(ScaleOfTheFirstTokens):
    """K56: of zeros, and reset does not forget it."""

    residual = 0


class RaggedCache(GrowingCache):
    """Rows of different lengths in one buffer [B, G, capacity, D], each with its own end."""

    capabilities = frozenset({"full", "ragged", "reorder"})

    def reset(self) -> None:
        super().reset()
        g = self.geometry
        shape = (g.batch, g.kv_heads, g.capacity + 64, g.head_dim)
        self.buffers = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(g.layers)]
        self.ends = torch.zeros(g.layers, g.batch, dtype=torch.long)

    def append(self, keys: Tensor, values: Tensor, layer: int, lengths: Tensor) -> None:
        starts = self.starts(layer)
        for row, count in enumerate(lengths.tolist()):
            start = int(starts[row])
            for buffer, new in zip(self.buffers[layer], (keys, values), strict=True):
                buffer[row, :, start : start + count] = new[row, :, :count]
        self.ends[layer] += lengths

    def starts(self, layer: int) -> Tensor:
        return self.ends[layer]

    def row_kv(self, row: int, layer: int) -> Pair:
        keys, values = self.buffers[layer]
        end = int(self.ends[layer, row])
        return keys[row, :, :end], values[row, :, :end]

    def reorder(self, rows: Tensor) -> None:
        super().reorder(rows)
        self.buffers = [(keys[rows], values[rows]) for keys, values in self.buffers]
        self.ends = self.ends[:, rows]


class OneEndForAllRows(RaggedCache):
    """K48: the longest row's end is every row's (jundot/omlx#2172)."""

    def starts(self, layer: int) -> Tensor:
        return self.ends[layer].max().expand(self.ends.shape[1])


class EndsNotReordered(RaggedCache):
    """K48, its cause: lengths stay with the place, not with the row."""

    def reorder(self, rows: Tensor) -> None:
        ends = self.ends[:, : len(rows)].clone()
        super().reorder(rows)
        self.ends = ends


@dataclass(frozen=True)
class CacheMutant:
    fault: type[Any]
    broken: str


IN_ORDER = "test_updates_give_back_every_token_in_order"
GATHERED = "test_reordering_gathers_rows"
CROPPED = "test_cropping_then_appending_equals_never_having_appended"
RAGGED = "test_rows_of_different_lengths_do_not_touch"
RESET = "test_a_reset_cache_is_as_new"
DROPPED = "test_tokens_can_be_taken_out_of_the_middle"
FULL = "test_a_cache_can_be_filled_to_its_last_slot"
MUTANTS = [
    CacheMutant(RolledOneStepEarly, IN_ORDER),
    CacheMutant(RolledOneStepEarly, "test_what_is_stored_is_what_was_written"),
    CacheMutant(WindowOfTheChunk, IN_ORDER),
    CacheMutant(MaskOfTheWindowAlone, "test_masks_are_as_wide_as_the_keys"),
    CacheMutant(LengthOfTheWindow, "test_seq_length_counts_every_token"),
    CacheMutant(NotReordered, GATHERED),
    CacheMutant(ReorderedInTheFirstLayer, GATHERED),
    CacheMutant(ReorderedAlongHeads, GATHERED),
    CacheMutant(LengthNotCropped, CROPPED),
    CacheMutant(LengthCroppedAlone, CROPPED),
    CacheMutant(KeepsTheFirstTensor, "test_written_tensors_are_the_callers_own"),
    CacheMutant(CounterOfAllLayers, "test_seq_length_counts_every_token"),
    CacheMutant(KeepsWhatTheWindowLeft, "test_memory_is_that_of_the_tokens"),
    CacheMutant(CounterSurvivesReset, RESET),
    CacheMutant(LogicalBeforeTheCrop, CROPPED),
    CacheMutant(LogicalBeforeTheReorder, GATHERED),
    CacheMutant(LogicalBeforeTheReorder, "test_rows_that_are_done_can_leave"),
    CacheMutant(MaskOfTheUncropped, CROPPED),
    CacheMutant(MaskAfterReset, RESET),
    CacheMutant(StopIsDroppedToo, DROPPED),
    CacheMutant(KeysMoveAlone, DROPPED),
    CacheMutant(CounterStaysAfterADrop, DROPPED),
    CacheMutant(RingTurnedByOne, IN_ORDER),
    CacheMutant(RingWrittenFirst, IN_ORDER),
    CacheMutant(EmptySlotsAreTheFirstToken, IN_ORDER),
    CacheMutant(GrowsByHalf, "test_memory_is_that_of_the_tokens"),
    CacheMutant(OneSlotInReserve, FULL),
    CacheMutant(LastSlotIsTheFirst, FULL),
    CacheMutant(LastSlotNotRead, FULL),
    CacheMutant(StrideOfTheChunk, IN_ORDER),
    CacheMutant(WritesAddUp, RESET),
    CacheMutant(WritesAddUp, CROPPED),
    CacheMutant(ResidualOfTheCall, "test_decoded_tokens_are_compressed_like_the_prompt"),
    CacheMutant(GroupsOfOneNumber, "test_old_tokens_are_really_rounded"),
    CacheMutant(ScaleOfTheFirstTokens, "test_later_tokens_may_be_of_another_size"),
    CacheMutant(ScaleOfTheWarmUp, RESET),
    CacheMutant(OneEndForAllRows, RAGGED),
    CacheMutant(EndsNotReordered, RAGGED),
]
SOUND = [
    GrowingCache,
    StaticCache,
    QuantizedCache,
    RaggedCache,
    RingCache,
    RingOfShortChunks,
    GrowsInSteps,
]


def claims(fault: type[Any]) -> dict[str, Any]:
    """Class attributes of the suite on one of the caches."""
    names = ("capabilities", "residual", "head_dim", "growth", "chunks_within_window")
    return {name: getattr(fault, name) for name in names if hasattr(fault, name)}
