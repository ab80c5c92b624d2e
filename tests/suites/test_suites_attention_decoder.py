"""DecoderSuite accepts the reference's decoder through each of its caches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from infopt_reference.attention import KVCache, SlidingCache, StaticCache
from infopt_reference.attention.decoder import Decoder, DecoderConfig
from infopt_reference.attention.rope import Rope
from infopt_suites.attention import DecoderSuite, MakeDecoder
from torch import Tensor

WINDOW = 6


class Reference:
    """A `Decoder` with random weights and a cache, as the suites' protocol."""

    def __init__(
        self, make_cache: Callable[[], KVCache], window: int | None, dtype: torch.dtype
    ) -> None:
        self.make_cache = make_cache
        rope = Rope(head_dim=8)
        config = DecoderConfig(48, 32, 64, 2, 4, 2, rope, window=window, tied=False)
        torch.manual_seed(29)
        decoder = Decoder(config)
        for weight in decoder.parameters():
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=0.4)  # large enough that every layer counts
        self.decoder = decoder.requires_grad_(False).to(dtype)
        self.vocab_size = config.vocab_size

    def logits(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.decoder(ids, None, attention_mask)
        return logits

    def step(self, ids: Tensor, attention_mask: Tensor, past: Any) -> tuple[Tensor, Any]:
        past = self.make_cache() if past is None else past
        return self.decoder(ids, past, attention_mask), past

    def crop(self, past: Any, length: int) -> Any:
        past.crop(length)
        return past

    def reorder(self, past: Any, rows: Tensor) -> Any:
        past.reorder(rows)
        return past


class OfReference(DecoderSuite):
    capabilities = frozenset(DecoderSuite.offers)


class TestGrowingCache(OfReference):
    @pytest.fixture
    def make_decoder(self) -> MakeDecoder:
        return partial(Reference, KVCache, None)


class TestStaticCacheBehindAWindow(OfReference):
    @pytest.fixture
    def make_decoder(self) -> MakeDecoder:
        return partial(Reference, lambda: StaticCache(64), WINDOW)


class TestSlidingCache(OfReference):
    @pytest.fixture
    def make_decoder(self) -> MakeDecoder:
        return partial(Reference, lambda: SlidingCache(WINDOW, slack=30), WINDOW)


class TestSlidingCacheWithoutSlack(DecoderSuite):
    capabilities = frozenset({"left-padding", "reorder"})

    @pytest.fixture
    def make_decoder(self) -> MakeDecoder:
        return partial(Reference, lambda: SlidingCache(WINDOW), WINDOW)
