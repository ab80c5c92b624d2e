"""Small language models for tests of decoding: tables of logits, and tiny transformers models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from infopt_reference.decoding import FunctionScorer
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

VOCABULARY = 8
STATES = 31


def states(row: Sequence[int]) -> Tensor:
    """A number behind each token that depends on it and on all tokens before it."""
    found, state = [], 0
    for token in row:
        state = (3 * state + token + 1) % STATES
        found.append(state)
    return torch.tensor(found)


def table(seed: int, scale: float = 1.5, vocabulary: int = VOCABULARY) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(STATES, vocabulary, generator=generator, dtype=torch.float64)


def function(logits: Tensor) -> Callable[[Sequence[int]], Tensor]:
    return lambda row: logits[states(row)]


def scorer(logits: Tensor) -> FunctionScorer:
    return FunctionScorer(function(logits), logits.shape[1])


def tiny_llama(seed: int, layers: int = 2, vocabulary: int = 64) -> Any:
    """Weights large enough that every token and layer counts, in float64: ties do not occur."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()


def tiny_windows(seed: int, window: int = 3) -> Any:
    """As `tiny_llama`; each token of two of the three layers sees the last few alone."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        initializer_range=0.3,
        use_sliding_window=True,
        sliding_window=window,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
