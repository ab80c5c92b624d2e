"""The decoder gives transformers' logits, through every cache and however it is called."""

import pytest
import torch
from attention_cases import padded_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.attention import Decoder, DecoderConfig, KVCache, SlidingCache, StaticCache
from tiny_models import CONFIGS, VOCABULARY
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 96,
    "initializer_range": 0.2,
}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}
MODELS = {
    "llama": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama, linear rope": lambda: LlamaConfig(**SHAPE, rope_parameters=LINEAR),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=5),
    "qwen2": CONFIGS["qwen2"],
}
IDS = torch.tensor([[(37 * i + 11 * row) % VOCABULARY for i in range(24)] for row in range(3)])


def make_model(name):
    torch.manual_seed(1)
    config = MODELS[name]()
    config._attn_implementation = "sdpa"  # eager attention takes its softmax in float32 always
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def dtype_error(model, ids, **arguments):
    """Logits in float64, and how far from them transformers' own are in float32."""
    single = model(ids, **arguments).logits
    double = model.double()(ids, **arguments).logits
    model.float()
    error = float((single - double).abs().max())
    # Its rotary angles are float32 in both, ours are exact: off by eps of themselves three times.
    angles = 3 * ids.shape[1] * torch.finfo(torch.float32).eps * float(double.abs().max())
    return double, 2 * error + angles


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name):
    model = make_model(name)
    exact, allowed = dtype_error(model, IDS)
    ours = Decoder.from_transformers(model)(IDS)
    assert ours.dtype is torch.float32
    assert (ours - exact).abs().max() <= allowed


@pytest.mark.parametrize("name", MODELS)
def test_left_padded_logits_are_those_of_transformers(name):
    model = make_model(name)
    held = torch.arange(24)[None] >= torch.tensor([[0], [7], [23]])
    positions = (held.long().cumsum(1) - 1).clamp(min=0)
    arguments = {"attention_mask": held.long(), "position_ids": positions}
    exact, allowed = dtype_error(model, IDS, **arguments)
    ours = Decoder.from_transformers(model)(IDS, attention_mask=held)
    assert (ours - exact)[held].abs().max() <= allowed


@settings(max_examples=25)
@given(held=padded_rows(max_length=16), cuts=st.sets(st.integers(1, 15)))
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_cached_equals_uncached_for_every_split_and_every_padding(name, held, cuts):
    decoder = Decoder.from_transformers(make_model(name)).double()
    batch, length = held.shape
    ids, window = IDS[:batch, :length], decoder.config.window
    expected = decoder(ids, attention_mask=held)
    made = [KVCache(), StaticCache(length)] + ([SlidingCache(window)] if window else [])
    ends = sorted({min(cut, length) for cut in cuts} | {length})
    for cache in made:
        start = 0
        for end in ends:
            logits = decoder(ids[:, start:end], cache, held[:, :end])
            difference = (logits - expected[:, start:end])[held[:, start:end]].abs()
            scale = float(expected.abs().max()) * torch.finfo(torch.float64).eps
            assert difference.numel() == 0 or difference.max() <= scale * amplification(decoder)
            start = end


def amplification(decoder):
    """Operations between an id and its logits: sums of so many terms, in every layer."""
    config = decoder.config
    sums = 2 * config.hidden_size + config.intermediate_size + 4 * config.rope.head_dim
    return (config.layers * sums + config.hidden_size) * 8  # logits of about 4 in the softmax


def test_weights_are_shared_and_not_copied():
    model = make_model("llama")
    decoder = Decoder.from_transformers(model)
    theirs = {x.data_ptr() for x in model.parameters()}
    assert {x.data_ptr() for x in decoder.parameters()} == theirs
    assert decoder.lm_head.weight is decoder.embed_tokens.weight
    assert not decoder.training
    model.requires_grad_(True)
    Decoder.from_transformers(model)
    assert all(x.requires_grad for x in model.parameters())


def test_what_the_decoder_has_not_is_refused_by_name():
    with pytest.raises(ValueError, match="architecture is 'gpt2'"):
        DecoderConfig.from_transformers(CONFIGS["gpt2"]())
    with pytest.raises(ValueError, match="no activation 'gelu' and no bias of the MLP"):
        DecoderConfig.from_transformers(LlamaConfig(hidden_act="gelu", mlp_bias=True))
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    with pytest.raises(ValueError, match="no rope 'dynamic'"):
        DecoderConfig.from_transformers(LlamaConfig(rope_parameters=rope))
