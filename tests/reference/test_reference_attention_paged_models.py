"""Real transformers models decode from blocks and shared prefixes what they decode anyway."""

import pytest
import torch
from infopt_reference.attention import (
    Decoder,
    KVShape,
    PagedKVCache,
    PagedRows,
    PrefixCache,
)
from infopt_reference.attention.transformers_cache import TransformersCache
from tiny_models import SAMPLE_IDS, make_model
from transformers import DynamicCache

from pytest_infopt.engines.registry import load_engine
from pytest_infopt.release import ModelSource

IDS = torch.tensor([SAMPLE_IDS, SAMPLE_IDS[::-1]])
MASK = torch.ones_like(IDS)
MASK[1, :5] = 0  # the second prompt is shorter
WAYS = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "best of many samples": {"num_return_sequences": 3, "do_sample": True, "temperature": 2.0},
}


def pages_of(config, num_blocks=64, block_size=4):
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    shape = KVShape(config.num_hidden_layers, kv_heads, head_dim)
    return PagedKVCache(shape, num_blocks, block_size)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2"])
def test_generated_tokens_are_those_of_a_dynamic_cache(name, way):
    model = make_model(name)
    pages = pages_of(model.config)
    sequences = []
    for cache in (
        TransformersCache.of(model.config, lambda: PagedRows(pages)),
        DynamicCache(config=model.config),
    ):
        torch.manual_seed(5)
        options = {"do_sample": False, "max_new_tokens": 15, "eos_token_id": None, **WAYS[way]}
        sequences.append(
            model.generate(
                IDS, attention_mask=MASK, past_key_values=cache, pad_token_id=0, **options
            )
        )
    assert torch.equal(*sequences)
    pages.check_conservation()


def test_rejected_drafts_give_their_blocks_back():
    model = make_model("llama")
    prompt = torch.tensor([SAMPLE_IDS[:6] * 3])
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    rows = PagedRows(pages_of(model.config))
    actual = model.generate(
        prompt,
        past_key_values=TransformersCache.of(model.config, lambda: rows),
        prompt_lookup_num_tokens=4,
        **options,
    )
    assert torch.equal(actual, model.generate(prompt, **options))
    assert rows.pages.num_blocks - rows.pages.num_free_blocks == -(-rows.get_seq_length() // 4)


@pytest.mark.slow
def test_smollm2_answers_the_same_after_a_shared_system_prompt():
    source = ModelSource("reference", "embedded:smollm2", dtype="float32", device="cpu")
    engine = load_engine(source)
    model, decoder = engine.module, Decoder.from_transformers(engine.module)
    pages = pages_of(model.config, num_blocks=16, block_size=8)
    prefixes = PrefixCache(pages.pool, 8)
    system = "You answer in one short sentence, and you say so when you do not know the answer. "
    computed = []
    for question in ("What is a cache?", "Where do rivers end?", "What is a cache?"):
        ids = engine.encode(system + question)
        match = prefixes.match(ids)
        pages.allocate("request", match.num_tokens, match.blocks)
        rows, tokens = PagedRows(pages, ["request"]), torch.tensor([ids])
        while tokens.shape[1] < len(ids) + 16:
            logits = decoder(tokens[:, rows.get_seq_length() :], rows)
            tokens = torch.cat([tokens, logits[:, -1:].argmax(dim=-1)], dim=1)
        prefixes.insert(ids, pages.block_table("request"))
        pages.free("request")
        cold = model.generate(
            torch.tensor([ids]),
            max_new_tokens=16,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert torch.equal(tokens, cold)
        computed.append(len(ids) - match.num_tokens)
    assert computed[1] < computed[0] / 2
    assert computed[2] <= 8
    pages.check_conservation(prefixes.blocks)
