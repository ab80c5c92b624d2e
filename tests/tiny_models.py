"""Tiny random-weight checkpoints of four architectures, with a word-level tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

VOCABULARY = 128
SAMPLE_IDS = [(37 * i + 5) % VOCABULARY for i in range(23)]

_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "initializer_range": 0.2,  # weights large enough that every layer leaves its mark
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**_SHAPE, tie_word_embeddings=True),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=96, initializer_range=0.2
    ),
    # Caps small enough to bend these logits; the first of two layers has the sliding window.
    "gemma2": lambda: Gemma2Config(
        **_SHAPE,
        head_dim=16,
        sliding_window=8,
        final_logit_softcapping=2.0,
        attn_logit_softcapping=5.0,
        query_pre_attn_scalar=16,
    ),
    "qwen2": lambda: Qwen2Config(**_SHAPE, tie_word_embeddings=False),
}


def make_tokenizer(words: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Words w0, w1, … with their numbers as ids."""
    vocabulary = {f"w{i}": i for i in range(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0")


def cache_in(given: Any) -> Any:
    """The cache among a forward's arguments, or in its output, by whichever name; or None."""
    names = ("cache", "past_key_values", "cache_params")
    return next((given[name] for name in names if given.get(name) is not None), None)


def make_model(architecture: str) -> Any:
    torch.manual_seed(7)
    return AutoModelForCausalLM.from_config(CONFIGS[architecture](), dtype=torch.float32).eval()
