"""The formula of a cache by hand, tokens taken back, and models that keep no cache."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import VOCABULARY, make_tokenizer
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    OpenAIGPTConfig,
)

from pytest_infopt.engines.base import CannotCropError, Capability
from pytest_infopt.engines.loaders.checkpoint import _expert_by_expert
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.engines.transformers.kv_caches import predicted_kv_bytes, take_back


def _config(**fields: Any) -> Any:
    config = SimpleNamespace(num_hidden_layers=3, num_attention_heads=8, hidden_size=64, **fields)
    config.get_text_config = lambda decoder: config
    return config


@pytest.mark.parametrize(
    ("fields", "held_heads"),
    [
        ({}, 3 * 20 * 8),  # multi-head: every head has keys and values of its own
        ({"num_key_value_heads": 2}, 3 * 20 * 2),
        ({"sliding_window": 6}, 3 * 6 * 8),
        ({"sliding_window": 6, "use_sliding_window": False}, 3 * 20 * 8),
        ({"sliding_window": None}, 3 * 20 * 8),
        (
            {
                "sliding_window": 6,
                "layer_types": ["sliding_attention", "full_attention", "dummy"],
            },
            (6 + 20) * 8,
        ),
        ({"attention_chunk_size": 5, "layer_types": ["chunked_attention"] * 3}, 3 * 5 * 8),
    ],
)
def test_predicted_kv_bytes_by_hand(fields: dict[str, Any], held_heads: int) -> None:
    head_dim, batch, size = 64 // 8, 3, 2
    predicted = predicted_kv_bytes(_config(**fields), 20, batch, size)
    assert predicted == 2 * held_heads * head_dim * batch * size


LATENT = {
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 7,
}


@pytest.mark.parametrize(
    ("fields", "latents", "numbers"),
    [
        ({"multi_query": True}, False, 3 * 20 * 1 * (8 + 8)),  # Falcon, GPT-BigCode
        (
            {"multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 4},
            False,
            3 * 20 * 4 * (8 + 8),
        ),
        (LATENT, False, 3 * 20 * 8 * (6 + 4 + 7)),  # DeepSeek V2: keys and values of every head
        (LATENT, True, 3 * 20 * 1 * (12 + 4)),  # DeepSeek V3: what they are made from
        ({"v_head_dim": 5}, False, 3 * 20 * 8 * (8 + 5)),
        (  # Gemma 3n: the last layer reads the first one's keys
            {"layer_types": ["full_attention"] * 3, "kv_sharing_modes": [None, None, "reuse"]},
            False,
            2 * 20 * 8 * (8 + 8),
        ),
    ],
)
def test_layers_of_other_attention_are_predicted(
    fields: dict[str, Any], latents: bool, numbers: int
) -> None:
    assert predicted_kv_bytes(_config(**fields), 20, 3, 2, latents=latents) == numbers * 3 * 2


def test_layers_may_differ_in_their_heads() -> None:
    narrow, wide = (_config(num_key_value_heads=2, head_dim=size) for size in (4, 16))
    config = _config(layer_types=["full_attention"] * 3, per_layer_config=[narrow, wide, narrow])
    assert predicted_kv_bytes(config, 20, 1, 2) == 20 * 2 * 2 * (4 + 16 + 4) * 2


@pytest.mark.parametrize("kind", ["linear_attention", "conv", "hybrid", "indexed_attention"])
def test_of_states_no_formula_is_known(kind: str) -> None:
    config = _config(layer_types=["full_attention", kind, "full_attention"])
    assert predicted_kv_bytes(config, 20, 1, 2) is None


def _engine(config: Any, tokenizer: Any = None) -> TransformersEngine:
    torch.manual_seed(7)
    module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return TransformersEngine("tiny", module, tokenizer, dtype=torch.float32)


SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}


def test_a_state_cannot_be_put_back_and_nothing_is_computed() -> None:
    engine = _engine(MambaConfig(**SMALL, state_size=4))
    ids = list(range(1, 9))
    with pytest.raises(CannotCropError, match="LinearAttentionLayer cannot be put back"):
        engine.through_cache([ids], [4], rejected=[0, 0])
    assert len(engine.through_cache([ids], [4])[0]) == len(ids)


def test_a_window_is_asked_to_record_what_leaves_it() -> None:
    cache = DynamicCache(config=LlamaConfig(**SMALL, **HEADS))
    recorded: list[bool] = []
    cache.activate_past_recording = lambda: recorded.append(True)  # type: ignore[method-assign]
    take_back(cache, 1, lambda: recorded.append(False))
    assert recorded == [True, False]


def test_a_model_without_a_cache_computes_all_anew_and_says_so() -> None:
    engine = _engine(
        OpenAIGPTConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    )
    assert not engine.capabilities & {Capability.CACHE, Capability.KV_SIZE}
    ids = list(range(1, 9))
    greedy = [int(event.token_id) for event in engine.stream(ids, 3)]
    expected = list(ids)
    for _ in range(3):
        expected.append(int(engine.full_logits(expected)[-1].argmax()))
    assert greedy == expected[len(ids) :]
    together = engine.generate([ids[:5], ids], [3, 3])
    assert together[1] == greedy


def test_padding_takes_an_id_that_exists() -> None:
    # "[PAD]" was added to the tokenizer alone, as the first id beyond the embedding.
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == VOCABULARY
    engine = _engine(LlamaConfig(**SMALL, **HEADS), tokenizer)
    short, longer = [1, 2, 3], [4, 5, 6, 7, 8]
    rows = engine.batch_logits([short, longer])
    torch.testing.assert_close(rows[0], engine.full_logits(short))


def test_a_mixture_of_experts_computes_in_float64_expert_by_expert() -> None:
    config = MixtralConfig(**SMALL, **HEADS, num_local_experts=4, num_experts_per_tok=2)
    torch.manual_seed(7)
    module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain = TransformersEngine("plain", module, dtype=torch.float32).full_logits([1, 2, 3, 4])
    wide = module.double()
    _expert_by_expert(wide)
    oracle = TransformersEngine("oracle", wide, dtype=torch.float64).full_logits([1, 2, 3, 4])
    assert 0 < float((plain - oracle).abs().max()) < 1e3 * torch.finfo(torch.float32).eps
