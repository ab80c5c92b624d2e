"""A tiny sentence encoder that is right, and the same with faults of batches and padding."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import torch
from batchers import AREA
from torch import Tensor

__all__ = ["AREA", "MUTANTS", "SOUND", "EmbedderMutant"]

VOCABULARY, WIDTH, LONGEST = 64, 16, 64


class SmallEmbedder:
    """Words, positions, one layer of attention, and the mean over a text's tokens."""

    capabilities: Any = frozenset({"empty", "normalized"})

    def __init__(self, dtype: torch.dtype, batch_size: int) -> None:
        self.dtype, self.batch_size = dtype, batch_size
        generator = torch.Generator().manual_seed(5)

        def weight(*shape: int) -> Tensor:
            drawn = torch.randn(*shape, generator=generator, dtype=torch.float64) / 2
            return drawn.float().to(dtype)  # the same numbers in each dtype

        self.words, self.positions = weight(VOCABULARY, WIDTH), weight(LONGEST, WIDTH)
        self.query, self.key, self.value = (weight(WIDTH, WIDTH) for _ in range(3))

    def __call__(self, texts: list[str]) -> Any:
        return self.joined([self.batch(part) for part in self.parts(texts)])

    def parts(self, texts: list[str]) -> list[list[str]]:
        size = self.batch_size
        return [texts[start : start + size] for start in range(0, len(texts), size)]

    def joined(self, batches: list[Tensor]) -> Any:
        return torch.cat(batches) if batches else torch.empty(0, WIDTH, dtype=self.dtype)

    def batch(self, texts: list[str]) -> Tensor:
        ids = [self.tokens(text)[: self.longest(texts)] for text in texts]
        longest = max(map(len, ids))
        mask = torch.zeros(len(ids), longest, dtype=torch.bool)  # [B, T]
        padded = torch.zeros(len(ids), longest, dtype=torch.long)  # [B, T]
        for row, tokens in enumerate(ids):
            where = self.place(len(tokens), longest)
            mask[row, where], padded[row, where] = True, torch.tensor(tokens)
        hidden = self.words[padded] + self.positions[self.position(mask)]  # [B, T, D]
        hidden = hidden + self.attend(hidden, mask)
        return torch.nn.functional.normalize(self.pool(hidden, mask), dim=1)

    def tokens(self, text: str) -> list[int]:
        words = (zlib.crc32(word.encode()) % (VOCABULARY - 1) + 1 for word in text.split())
        return [1, *words]

    def longest(self, texts: list[str]) -> int:
        return LONGEST

    def place(self, length: int, longest: int) -> slice:
        return slice(0, length)

    def position(self, mask: Tensor) -> Tensor:
        return (mask.cumsum(1) - 1).clamp(min=0)

    def attend(self, hidden: Tensor, mask: Tensor) -> Tensor:
        scores = (hidden @ self.query) @ (hidden @ self.key).mT / WIDTH**0.5  # [B, T, T]
        scores = scores.masked_fill(~self.seen(mask)[:, None], -torch.inf)
        return scores.softmax(-1) @ (hidden @ self.value)

    def seen(self, mask: Tensor) -> Tensor:
        return mask

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        weights = mask[:, :, None].to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)


class PaddedLeft(SmallEmbedder):
    """Sound in another way."""

    def place(self, length: int, longest: int) -> slice:
        return slice(longest - length, longest)


class LastToken(SmallEmbedder):
    """Sound in another way: the vector of the last token."""

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]


class MeanOverPadding(SmallEmbedder):
    """B17: the mean of all positions (HKUDS/LightRAG#3675)."""

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden.mean(1)


class SumOverLongest(SmallEmbedder):
    """B17: padding is left out of the sum, and counted. Without a norm it is another vector."""

    capabilities = frozenset({"empty"})

    def batch(self, texts: list[str]) -> Tensor:
        vectors = super().batch(texts)
        longest = max(len(self.tokens(text)) for text in texts)
        share = torch.tensor([len(self.tokens(text)) / longest for text in texts])
        return vectors * share[:, None].to(vectors.dtype)


class AttentionWithoutMask(SmallEmbedder):
    """B17: tokens look at padding (lean-dojo/ReProver#34)."""

    def seen(self, mask: Tensor) -> Tensor:
        return torch.ones_like(mask)


class LastPosition(SmallEmbedder):
    """Not listed: the last position taken for the last token."""

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden[:, -1]


class PositionsFromPadding(PaddedLeft):
    """Not listed: padding on the left, positions that count it."""

    def position(self, mask: Tensor) -> Tensor:
        return torch.arange(mask.shape[1]).expand(mask.shape)


class CutToTheFirst(SmallEmbedder):
    """Not listed: all texts of a batch are cut where its first one ends."""

    def longest(self, texts: list[str]) -> int:
        return min(LONGEST, max(8, len(self.tokens(texts[0]))))


class SortedAndNotBack(SmallEmbedder):
    """B14: by length, to save padding."""

    def parts(self, texts: list[str]) -> list[list[str]]:
        return super().parts(sorted(texts, key=len))


class LastBatchDoubled(SmallEmbedder):
    """B29: the accumulator is overwritten."""

    def joined(self, batches: list[Tensor]) -> Any:
        count = sum(map(len, batches))
        return torch.cat([batches[-1]] * len(batches))[:count] if batches else super().joined([])


class FullBatchesAlone(SmallEmbedder):
    """B02: what fills no batch is left out."""

    def parts(self, texts: list[str]) -> list[list[str]]:
        return [part for part in super().parts(texts) if len(part) == self.batch_size]


class DuplicatesDropped(SmallEmbedder):
    """Not listed: a vector for each different text."""

    def parts(self, texts: list[str]) -> list[list[str]]:
        return super().parts(list(dict.fromkeys(texts)))


class NothingByNothing(SmallEmbedder):
    """Not listed: a text without words has no tokens, and a mean of 0 / 0."""

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        words = mask.clone()
        words[:, 0] = False
        return super().pool(hidden, words)


class NoTexts(SmallEmbedder):
    """Not listed: the longest of no texts."""

    def joined(self, batches: list[Tensor]) -> Any:
        return torch.cat(batches)

    def parts(self, texts: list[str]) -> list[list[str]]:
        assert texts, "no texts"
        return super().parts(texts)


class NotNormalized(SmallEmbedder):
    """Not listed: scaled, and then scaled again."""

    def batch(self, texts: list[str]) -> Tensor:
        return super().batch(texts) * 1.001


class SameForAll(SmallEmbedder):
    """Not listed: the first token of all texts is the same, and nothing else is looked at."""

    def attend(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return torch.zeros_like(hidden)

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden[:, 0]


class HalfPrecisionWithNeighbours(SmallEmbedder):
    """Not listed: batches are computed in float16."""

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        pooled = super().pool(hidden, mask)
        return pooled.half().to(pooled.dtype) if len(hidden) > 1 else pooled


@dataclass(frozen=True)
class EmbedderMutant:
    fault: type[SmallEmbedder]
    broken: str


NEIGHBOURS = "test_a_vector_does_not_depend_on_its_neighbours"
PLACE = "test_a_vector_does_not_depend_on_its_place"
CUT = "test_a_text_that_is_cut_leaves_the_others_alone"
EQUAL = "test_equal_texts_have_equal_vectors_and_others_have_others"
EMPTY = "test_an_empty_text_has_a_vector"
MUTANTS = [
    EmbedderMutant(MeanOverPadding, NEIGHBOURS),
    EmbedderMutant(SumOverLongest, NEIGHBOURS),
    EmbedderMutant(AttentionWithoutMask, NEIGHBOURS),
    EmbedderMutant(LastPosition, NEIGHBOURS),
    EmbedderMutant(PositionsFromPadding, NEIGHBOURS),
    EmbedderMutant(CutToTheFirst, NEIGHBOURS),
    EmbedderMutant(CutToTheFirst, CUT),
    EmbedderMutant(SortedAndNotBack, PLACE),
    EmbedderMutant(LastBatchDoubled, PLACE),
    EmbedderMutant(FullBatchesAlone, PLACE),
    EmbedderMutant(DuplicatesDropped, EQUAL),
    EmbedderMutant(SameForAll, EQUAL),
    EmbedderMutant(NothingByNothing, EMPTY),
    EmbedderMutant(NoTexts, "test_no_texts_have_no_vectors"),
    EmbedderMutant(NotNormalized, "test_vectors_have_length_1"),
    EmbedderMutant(HalfPrecisionWithNeighbours, NEIGHBOURS),
]
SOUND = [SmallEmbedder, PaddedLeft, LastToken]
