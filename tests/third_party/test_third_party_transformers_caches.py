"""transformers' caches and tiny models of six architectures, and torch's own attention, through
the suites."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from infopt_suites.attention import (
    AttentionSpec,
    AttentionSuite,
    CacheGeometry,
    DecoderSuite,
    KVCacheSuite,
    MakeCache,
    MakeDecoder,
    TransformersDecoder,
)
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, StaticCache

WINDOW = 6
VOCABULARY = 48
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # weights large enough that every layer leaves its mark
    "pad_token_id": 0,
}


# Attention


class Sdpa:
    """`scaled_dot_product_attention` with a mask that is written out."""

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None
    ) -> Tensor:
        count, held = queries.shape[2], keys.shape[2]
        key = torch.arange(held)
        query = torch.arange(held - count, held)[:, None]
        seen = key <= query if self.spec.causal else torch.ones(count, held).bool()
        if self.spec.window is not None:
            seen = seen & (query - key < self.spec.window)
        mask = seen[None, None]
        if padding is not None:
            mask = mask & (key >= padding[:, None])[:, None, None]
        return functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, enable_gqa=True
        )


class TestScaledDotProductAttention(AttentionSuite):
    capabilities = frozenset({"grouped", "bidirectional", "window", "left-padding", "zero-rows"})

    @pytest.fixture
    def make_attention(self) -> type[Sdpa]:
        return Sdpa


# Caches


class OfTransformers:
    """A `transformers.Cache` as the suites' protocol."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        held: tuple[Tensor, Tensor] = self.cache.update(keys, values, layer)
        return held

    def get_seq_length(self, layer: int = 0) -> int:
        return int(self.cache.get_seq_length(layer))

    def get_mask_sizes(self, query_length: int, layer: int) -> tuple[int, int]:
        width, offset = self.cache.get_mask_sizes(query_length, layer)
        return int(width), int(offset)

    def crop(self, length: int) -> None:
        self.cache.crop(length - self.get_seq_length())  # negative: how many to remove

    def reorder(self, rows: Tensor) -> None:
        self.cache.reorder_cache(rows)

    def reset(self) -> None:
        self.cache.reset()


def config(geometry: CacheGeometry) -> Any:
    """What the caches read their layers from."""
    shape = {**SHAPE, "num_hidden_layers": geometry.layers, "sliding_window": geometry.window}
    if geometry.window is None:
        del shape["sliding_window"]
        return transformers.LlamaConfig(**shape)
    return transformers.MistralConfig(**shape)


class TestDynamicCache(KVCacheSuite):
    capabilities = frozenset({"mask-sizes", "full", "window", "crop", "reorder", "reset"})
    windows = (2, 3, 5)  # 1: tests/findings/test_findings_transformers_window_of_one.py

    @pytest.fixture
    def make_cache(self) -> MakeCache:
        return lambda geometry: OfTransformers(DynamicCache(config=config(geometry)))


class TestStaticCache(KVCacheSuite):
    capabilities = frozenset({"mask-sizes", "reset"})

    @pytest.fixture
    def make_cache(self) -> MakeCache:
        return lambda geometry: OfTransformers(
            StaticCache(config=config(geometry), max_cache_len=geometry.capacity)
        )


class TestStaticSlidingCache(KVCacheSuite):
    capabilities = frozenset({"mask-sizes", "window", "reset"})
    windows = (1, 2, 3, 5)

    @pytest.fixture
    def make_cache(self) -> MakeCache:
        return lambda geometry: OfTransformers(
            StaticCache(config=config(geometry), max_cache_len=geometry.capacity)
        )


class TestQuantizedCache(KVCacheSuite):
    """4 bit by quanto: all tokens are quantized anew when the newest four have come together."""

    capabilities = frozenset({"mask-sizes", "quantized", "reorder", "reset"})
    bits, residual, head_dim = 4, 4, 32
    examples = 6

    @pytest.fixture
    def make_cache(self) -> MakeCache:
        return lambda geometry: OfTransformers(
            transformers.QuantizedCache(
                "quanto", config(geometry), nbits=4, q_group_size=32, residual_length=4
            )
        )


# Models

DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**SHAPE),
    "qwen2": lambda: transformers.Qwen2Config(**SHAPE),
    "mistral": lambda: transformers.MistralConfig(**SHAPE, sliding_window=WINDOW),
    "gemma2": lambda: transformers.Gemma2Config(
        **SHAPE, sliding_window=WINDOW, query_pre_attn_scalar=8, attn_logit_softcapping=5.0
    ),
    "phi": lambda: transformers.PhiConfig(**{k: v for k, v in SHAPE.items() if k != "head_dim"}),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3
    ),
}


SCALED: dict[str, Callable[[], Any]] = {
    "llama-dynamic": lambda: transformers.LlamaConfig(
        **{**SHAPE, "max_position_embeddings": 8}, rope_parameters=DYNAMIC
    ),
}


def make_past(kind: str, model: Any) -> Any:
    if kind == "static":
        return StaticCache(config=model.config, max_cache_len=40)
    return DynamicCache(config=model.config)


def decoder(architecture: str, attention: str, kind: str, dtype: torch.dtype) -> Any:
    """The same random weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(41)
        model = transformers.AutoModelForCausalLM.from_config(
            (CONFIGS | SCALED)[architecture](), attn_implementation=attention, dtype=torch.float32
        )
    return TransformersDecoder(model.to(dtype).eval(), partial(make_past, kind))


def in_turn(attention: str, kind: str) -> Iterator[Any]:
    for architecture in CONFIGS:
        if attention == "sdpa" and architecture == "gemma2":
            continue  # soft-capped logits: eager attention alone
        if kind == "cropped" and architecture == "mistral":
            continue  # a window's cache can go back over the last update alone, and only once
        name = f"{architecture}-{attention}-{kind}"
        yield pytest.param(partial(decoder, architecture, attention, kind), id=name)


class OfModels(DecoderSuite):
    longest = 16
    examples = 4


@pytest.mark.slow
class TestModelsWithDynamicCache(OfModels):
    capabilities = frozenset({"left-padding", "reorder"})

    @pytest.fixture(params=[*in_turn("eager", "dynamic"), *in_turn("sdpa", "dynamic")])
    def make_decoder(self, request: pytest.FixtureRequest) -> MakeDecoder:
        made: MakeDecoder = request.param
        return made


@pytest.mark.slow
class TestModelsWithStaticCache(OfModels):
    capabilities = frozenset({"left-padding"})

    @pytest.fixture(params=[*in_turn("sdpa", "static")])
    def make_decoder(self, request: pytest.FixtureRequest) -> MakeDecoder:
        made: MakeDecoder = request.param
        return made


@pytest.mark.slow
class TestModelsWhoseCacheIsCropped(OfModels):
    capabilities = frozenset({"left-padding", "crop"})
    examples = 2

    @pytest.fixture(params=[*in_turn("sdpa", "cropped")])
    def make_decoder(self, request: pytest.FixtureRequest) -> MakeDecoder:
        made: MakeDecoder = request.param
        return made


@pytest.mark.slow
class TestDynamicScalingOfRotations(OfModels):
    """Within the length that the model was made for, and beyond it, where the base changes."""

    longest = 16
    expected_failures = dict.fromkeys(
        ("test_cached_logits_equal_uncached_ones", "test_later_tokens_change_no_earlier_logits"),
        "tests/findings/test_findings_transformers_dynamic_rope.py",
    )

    @pytest.fixture
    def make_decoder(self) -> MakeDecoder:
        return partial(decoder, "llama-dynamic", "sdpa", "dynamic")
