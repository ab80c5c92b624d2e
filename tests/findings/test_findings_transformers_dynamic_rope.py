"""transformers 5.23.0: with "dynamic" rotations, a cache gives other logits than no cache.

The base grows with the length, once that is beyond ``max_position_embeddings``. The cache holds
keys that were rotated with the base of an earlier length, and new queries are rotated with another
one: what they see depends on how the tokens came. Without a cache all have the last base, so even
the first tokens' logits depend on how many follow (huggingface/transformers#25104).

The base is set back for shorter sequences, but not for one of exactly ``max_position_embeddings``
tokens, which keeps that of the longest before it: its logits depend on who was served earlier.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

MOST = 8


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=MOST,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).double().eval()


def logits(model: LlamaForCausalLM, length: int) -> Tensor:
    with torch.no_grad():
        return model(torch.arange(length)[None] % 16, use_cache=False).logits[:, -1]


def same(first: Tensor, second: Tensor) -> bool:
    """Of float64's 1e-16 a layer leaves some 1e-15; another base moves every digit."""
    return float((first - second).abs().max()) < torch.finfo(torch.float32).eps


@pytest.mark.parametrize(("length", "equal"), [(MOST, True), (MOST + 1, False)])
def test_cached_logits_differ_beyond_the_length_of_training(
    model: LlamaForCausalLM, length: int, equal: bool
) -> None:
    ids = torch.arange(length)[None] % 16
    with torch.no_grad():
        prompt = model(ids[:, :-1], use_cache=True)
        cached = model(ids[:, -1:], past_key_values=prompt.past_key_values).logits[:, -1]
    assert same(cached, logits(model, length)) is equal


@pytest.mark.parametrize(("length", "equal"), [(MOST - 1, True), (MOST, False)])
def test_a_longer_sequence_changes_what_the_next_one_gives(
    model: LlamaForCausalLM, length: int, equal: bool
) -> None:
    fresh = logits(model, length)
    logits(model, MOST + 1)
    assert same(logits(model, length), fresh) is equal
