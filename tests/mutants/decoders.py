"""A small decoder that is right, and the same with faults that real models have shipped.

Legend: B batch, T new tokens, N slots so far, S keys held, H query heads, G kv heads, D head dim,
V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

AREA = "2 decoders"
VOCABULARY, HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 32, 16, 4, 2, 4
WINDOWS = (None, 5, None)  # of each layer
CHUNKS = (None, None, 6)
PRETRAINED = 12  # positions that the rotation's base was made for


@dataclass
class Past:
    """Keys before their rotation and values, [B, G, S, D] of each layer."""

    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    length: int = 0


class SmallDecoder:
    """Three layers of attention: one with a window, one with chunks. Positions are learned and
    rotated: rotation alone would not notice a shift of a whole row."""

    capabilities = frozenset({"left-padding", "crop", "reorder"})

    def __init__(self, dtype: torch.dtype) -> None:
        self.vocab_size = VOCABULARY
        generator = torch.Generator().manual_seed(23)

        def weight(*shape: int) -> Tensor:
            return (torch.randn(shape, generator=generator) / math.sqrt(shape[-1])).to(dtype)

        self.embedding, self.places = weight(VOCABULARY, HIDDEN) * 4, weight(64, HIDDEN) * 2
        sizes = {"q": HEADS, "k": KV_HEADS, "v": KV_HEADS}
        self.weights = [
            {name: weight(heads * HEAD_DIM, HIDDEN) * 2 for name, heads in sizes.items()}
            | {"o": weight(HIDDEN, HEADS * HEAD_DIM)}
            for _ in WINDOWS
        ]
        self.head = weight(VOCABULARY, HIDDEN)

    def logits(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.step(ids, attention_mask, None)[0]

    def step(self, ids: Tensor, attention_mask: Tensor, past: Any) -> tuple[Tensor, Any]:
        past = Past() if past is None else past
        positions = self.positions(attention_mask, ids.shape[1])  # [B, N], −1 without a token
        new = positions[:, -ids.shape[1] :]
        x = self.embedding[ids] + self.places[self.learned(new)]
        layers = []
        for layer, weights in enumerate(self.weights):
            held = past.layers[layer] if past.layers else None
            y, kept = self.attention(x, weights, layer, held, positions)
            x = x + y
            layers.append(kept)
        logits = x / x.square().mean(-1, keepdim=True).add(1e-5).sqrt() @ self.head.T
        return logits, Past(layers, past.length + ids.shape[1])

    def positions(self, attention_mask: Tensor, new: int) -> Tensor:
        return (attention_mask.long().cumsum(-1) - 1).masked_fill(~attention_mask, -1)

    def learned(self, positions: Tensor) -> Tensor:
        return positions.clamp(min=0)

    def attention(
        self,
        x: Tensor,
        weights: dict[str, Tensor],
        layer: int,
        held: tuple[Tensor, Tensor] | None,
        positions: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        new = x.shape[1]
        q, k, v = (
            (x @ weights[name].T).unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2) for name in "qkv"
        )
        k = self.before_caching(k, positions[:, -new:], layer)
        keys, values = (
            (k, v)
            if held is None
            else (
                torch.cat([held[0], k], dim=2),
                torch.cat([held[1], v], dim=2),
            )
        )
        query, key = positions[:, -new:], positions[:, -keys.shape[2] :]
        longest = int(positions.max()) + 1
        q, rotated = self.rotate(q, query, longest), self.after_caching(keys, key, longest)
        rotated, repeated = (h.repeat_interleave(HEADS // KV_HEADS, 1) for h in (rotated, values))
        scores = q @ rotated.mT / math.sqrt(HEAD_DIM)
        seen = self.seen(query, key, layer)[:, None]
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        y = (scores.softmax(-1) @ repeated).transpose(1, 2).flatten(2) @ weights["o"].T
        return y, self.kept(keys, values, layer)

    def seen(self, query: Tensor, key: Tensor, layer: int) -> Tensor:
        """Bool [B, T, S]."""
        query, key = query[:, :, None], key[:, None, :]
        seen = (key >= 0) & (key <= query)
        window, chunk = WINDOWS[layer], CHUNKS[layer]
        if window is not None:
            seen = seen & (query - key < window)
        if chunk is not None:
            seen = seen & self.same_chunk(query, key, chunk)
        return seen

    def same_chunk(self, query: Tensor, key: Tensor, chunk: int) -> Tensor:
        return query // chunk == key // chunk

    def before_caching(self, k: Tensor, positions: Tensor, layer: int) -> Tensor:
        return k

    def after_caching(self, keys: Tensor, positions: Tensor, longest: int) -> Tensor:
        return self.rotate(keys, positions, longest)

    def rotate(self, x: Tensor, positions: Tensor, longest: int) -> Tensor:
        base = self.base(longest)
        angles = positions.clamp(min=0)[:, None, :, None] / base ** (
            torch.arange(HEAD_DIM // 2, dtype=torch.float64) / (HEAD_DIM // 2)
        )
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def base(self, longest: int) -> float:
        return 100.0

    def kept(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        return keys, values

    def crop(self, past: Past, length: int) -> Past:
        return Past(
            [(k[:, :, :length], v[:, :, :length]) for k, v in past.layers],
            length,
        )

    def reorder(self, past: Past, rows: Tensor) -> Past:
        return Past([(k[rows], v[rows]) for k, v in past.layers], past.length)


class DropsWhatTheWindowLeft(SmallDecoder):
    """Sound in another way: a windowed layer keeps window − 1 tokens, and cannot be cropped."""

    capabilities = frozenset({"left-padding", "reorder"})

    def kept(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        window = WINDOWS[layer]
        if window is None:
            return keys, values
        first = max(keys.shape[2] - self.width(window), 0)
        return keys[:, :, first:], values[:, :, first:]

    def width(self, window: int) -> int:
        return window - 1


class MaskOfTheFirstKeys(SmallDecoder):
    """K01: a chunk's queries stand at the first keys (pytorch/pytorch#108108)."""

    def seen(self, query: Tensor, key: Tensor, layer: int) -> Tensor:
        if query.shape[1] == 1:  # as it was found: a single token is not masked
            return super().seen(query, key, layer)
        return super().seen(key[:, : query.shape[1]], key, layer)


class PositionsOfTheCall(SmallDecoder):
    """K03: each step begins at position 0 (huggingface/transformers#15751)."""

    def learned(self, positions: Tensor) -> Tensor:
        return torch.arange(positions.shape[1]).expand_as(positions)


class PositionsOfTheStepsIds(SmallDecoder):
    """K65: positions from the ids of this step, always 0 when decoding
    (huggingface/transformers#48289)."""

    def learned(self, positions: Tensor) -> Tensor:
        learned = super().learned(positions)
        return torch.zeros_like(learned) if positions.shape[1] == 1 else learned


class PositionsOfTheSlots(SmallDecoder):
    """K04: one row of positions for the whole batch (unslothai/unsloth#3795)."""

    def positions(self, attention_mask: Tensor, new: int) -> Tensor:
        slots = torch.arange(attention_mask.shape[1]).expand_as(attention_mask)
        return slots.masked_fill(~attention_mask, -1)


class PaddingSeen(SmallDecoder):
    """K04's neighbour: padding is no token and is attended to."""

    def seen(self, query: Tensor, key: Tensor, layer: int) -> Tensor:
        return super().seen(query, key.clamp(min=0), layer)


class WindowRolledEarly(DropsWhatTheWindowLeft):
    """K08: one token short when the window is full (huggingface/transformers#37574)."""

    def width(self, window: int) -> int:
        return window - 2


class ChunksOfSlots(SmallDecoder):
    """K14: chunks counted from the slot (huggingface/transformers#40324)."""

    def seen(self, query: Tensor, key: Tensor, layer: int) -> Tensor:
        shift = (key < 0).sum(-1).view(-1, 1, 1)
        self.shift = shift
        return super().seen(query, key, layer)

    def same_chunk(self, query: Tensor, key: Tensor, chunk: int) -> Tensor:
        return super().same_chunk(query + self.shift, key + self.shift, chunk)


class RotatedKeysOfAnotherBase(SmallDecoder):
    """K19: keys are cached rotated, the base grows (huggingface/transformers#25104)."""

    def base(self, longest: int) -> float:
        return 100.0 * max(longest / PRETRAINED, 1.0) ** 2

    def before_caching(self, k: Tensor, positions: Tensor, layer: int) -> Tensor:
        return self.rotate(k, positions, int(positions.max()) + 1)

    def after_caching(self, keys: Tensor, positions: Tensor, longest: int) -> Tensor:
        return keys


class BaseStaysScaled(SmallDecoder):
    """K19: after a long sequence the base is that of long ones (huggingface/transformers#27227)."""

    longest = PRETRAINED

    def base(self, longest: int) -> float:
        self.longest = max(longest, self.longest)
        return 100.0 * (self.longest / PRETRAINED) ** 2


class NotReordered(SmallDecoder):
    """K57: beams go on from their own rows (huggingface/transformers#46612)."""

    def reorder(self, past: Past, rows: Tensor) -> Past:
        return past


class NotCropped(SmallDecoder):
    """Not listed: in the first layer it is the oldest tokens that go."""

    def crop(self, past: Past, length: int) -> Past:
        (keys, values), *_ = past.layers
        first = keys.shape[2] - length
        stale = keys[:, :, first:], values[:, :, first:]
        return Past([stale, *super().crop(past, length).layers[1:]], length)


class SeesTheNextToken(SmallDecoder):
    """K41's effect: the mask leaves one later key open."""

    def seen(self, query: Tensor, key: Tensor, layer: int) -> Tensor:
        later = key[:, None, :] == query[:, :, None] + 1
        return super().seen(query, key, layer) | (later & (key[:, None, :] > 0))


class PaddingKnownByItsId(SmallDecoder):
    """Not listed: id 0 is padding wherever it stands."""

    def step(self, ids: Tensor, attention_mask: Tensor, past: Any) -> tuple[Tensor, Any]:
        empty = ~attention_mask[:, -ids.shape[1] :] & (ids % 2 == 0)
        seen = attention_mask.clone()
        seen[:, -ids.shape[1] :] |= empty
        return super().step(ids, seen, past)


class NanWithoutKeys(SmallDecoder):
    """K40: a padded slot's softmax over nothing (pytorch/pytorch#131060)."""

    def attention(
        self,
        x: Tensor,
        weights: dict[str, Tensor],
        layer: int,
        held: tuple[Tensor, Tensor] | None,
        positions: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, kept = super().attention(x, weights, layer, held, positions)
        empty = positions[:, -x.shape[1] :] < 0
        return y.masked_fill(empty[..., None], math.nan), kept


@dataclass(frozen=True)
class DecoderMutant:
    fault: type[SmallDecoder]
    broken: str


CACHED = "test_cached_logits_equal_uncached_ones"
PADDED = "test_a_padded_row_gives_what_the_row_gives_alone"
SILENT = "test_padded_slots_say_nothing"
MUTANTS = [
    DecoderMutant(MaskOfTheFirstKeys, CACHED),
    DecoderMutant(PositionsOfTheCall, CACHED),
    DecoderMutant(PositionsOfTheStepsIds, CACHED),
    DecoderMutant(PositionsOfTheSlots, PADDED),
    DecoderMutant(PaddingSeen, PADDED),
    DecoderMutant(WindowRolledEarly, CACHED),
    DecoderMutant(ChunksOfSlots, PADDED),
    DecoderMutant(RotatedKeysOfAnotherBase, CACHED),
    DecoderMutant(BaseStaysScaled, "test_a_long_sequence_leaves_no_trace_in_the_next"),
    DecoderMutant(NotReordered, "test_rows_go_on_where_another_row_stopped"),
    DecoderMutant(NotCropped, "test_tokens_taken_back_leave_no_trace"),
    DecoderMutant(SeesTheNextToken, "test_later_tokens_change_no_earlier_logits"),
    DecoderMutant(PaddingKnownByItsId, SILENT),
    DecoderMutant(NanWithoutKeys, SILENT),
]
SOUND = [SmallDecoder, DropsWhatTheWindowLeft]
