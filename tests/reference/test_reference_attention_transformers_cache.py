"""Real transformers models decode through our caches what they decode through DynamicCache."""

import pytest
import torch
from infopt_reference.attention import (
    Decoder,
    KVCache,
    QuantizedCache,
    SlidingCache,
    StaticCache,
)
from infopt_reference.attention.transformers_cache import TransformersCache
from infopt_reference.quantization import QuantizationScheme
from tiny_models import CONFIGS, SAMPLE_IDS, VOCABULARY
from transformers import AutoModelForCausalLM, DynamicCache, MistralConfig

from pytest_infopt.engines.registry import load_engine
from pytest_infopt.release import ModelSource

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
MODELS = {**CONFIGS, "mistral": lambda: MistralConfig(**SHAPE, sliding_window=6)}
MAKERS = {"growing": KVCache, "static": lambda: StaticCache(64)}
INT8 = QuantizationScheme(bits=8, granularity="group", group_size=16)
IDS = torch.tensor([SAMPLE_IDS, SAMPLE_IDS[::-1]])
EPS = torch.finfo(torch.float32).eps


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    torch.manual_seed(7)
    config = MODELS[request.param]()
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def generate(model, cache, mask=None, **options):
    """Token ids and logits of 20 steps behind the prompts."""
    options |= {"use_cache": False} if cache is None else {"past_key_values": cache}
    output = model.generate(
        IDS,
        attention_mask=torch.ones_like(IDS) if mask is None else mask,
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    return output.sequences, torch.stack(output.logits)


def assert_same(actual, expected):
    assert torch.equal(actual[0], expected[0])
    # The same numbers, added up in another order where the caches differ in layout.
    terms = 2 * (8 * SHAPE["hidden_size"] + 2 * SHAPE["intermediate_size"] + 2 * 64)
    assert (actual[1] - expected[1]).abs().max() <= terms * 8 * EPS * expected[1].abs().max()


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("padding", [0, 5])
def test_greedy_decoding_is_that_of_a_dynamic_cache(model, kind, padding):
    mask = torch.ones_like(IDS)
    mask[1, :padding] = 0
    cache = TransformersCache.of(model.config, MAKERS[kind])
    expected = generate(model, DynamicCache(config=model.config), mask)
    assert_same(generate(model, cache, mask), expected)
    assert cache.get_seq_length() == IDS.shape[1] + 19


def test_full_caches_serve_windowed_layers_too(model):
    layers = model.config.get_text_config().num_hidden_layers
    expected = generate(model, DynamicCache(config=model.config))
    cache = KVCache()
    assert_same(generate(model, TransformersCache([cache] * layers)), expected)
    assert cache.held_length(layers - 1) == IDS.shape[1] + 19


@pytest.mark.parametrize("kind", MAKERS)
def test_beams_reorder_the_rows(model, kind):
    cache = TransformersCache.of(model.config, MAKERS[kind])
    options = {"num_beams": 3, "num_return_sequences": 3}
    sequences, _ = generate(model, cache, **options)
    expected, _ = generate(model, None, **options)
    assert torch.equal(sequences, expected)


def test_rejected_drafts_are_taken_back():
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"](), dtype=torch.float32).eval()
    repeated = torch.tensor([SAMPLE_IDS[:6] * 3])
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(repeated, **options)
    for make in MAKERS.values():
        cache = TransformersCache.of(model.config, make)
        actual = model.generate(
            repeated, past_key_values=cache, prompt_lookup_num_tokens=4, **options
        )
        assert torch.equal(actual, expected)


def test_rows_are_repeated_selected_and_forgotten(model):
    one, other = (TransformersCache.of(model.config) for _ in range(2))
    chosen = torch.tensor([1, 1, 0, 0])
    model(IDS[:, :9], past_key_values=one)
    one.batch_repeat_interleave(2)
    one.batch_select_indices(torch.tensor([2, 3, 0, 1]))
    expected = model(IDS[chosen, :9], past_key_values=other).logits
    step, same = (model(IDS[chosen, 9:12], past_key_values=cache).logits for cache in (one, other))
    bound = 1024 * 8 * EPS * expected.abs().max()  # as above, for other shapes of the same sums
    assert (step - same).abs().max() <= bound
    one.reset()
    assert one.get_seq_length() == one.nbytes() == 0


def test_codes_give_what_the_decoder_computes_from_them():
    """The same numbers come back in both: the difference is the order of sums, and rare ties."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"](), dtype=torch.float32).eval()
    decoder, ours = Decoder.from_transformers(model), QuantizedCache(INT8)
    theirs = TransformersCache.of(model.config, lambda: QuantizedCache(INT8))
    exact = model(IDS).logits
    for start in range(0, IDS.shape[1], 4):
        chunk = IDS[:, start : start + 4]
        actual = model(chunk, past_key_values=theirs).logits
        expected = decoder(chunk, ours)
        error = (expected - exact[:, start : start + 4]).abs().max()
        assert 0 < (actual - exact[:, start : start + 4]).abs().max() <= 2 * error
    assert ours.nbytes() == theirs.nbytes()


def test_layers_that_do_not_attend_are_refused():
    config = CONFIGS["qwen2"]()
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match="layers of linear_attention have no cache here"):
        TransformersCache.of(config)


@pytest.mark.slow
def test_smollm2_decodes_the_same_tokens_through_every_cache():
    """Also through a window and codes, where these change nothing or little."""
    source = ModelSource("reference", "embedded:smollm2", dtype="float32", device="cpu")
    engine = load_engine(source)
    model, text = engine.module, "A cache is worth its memory only if the answer stays the same."
    ids = torch.tensor([engine.encode(text)])
    options = {"max_new_tokens": 32, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(ids, past_key_values=DynamicCache(config=model.config), **options)
    makers = {**MAKERS, "sliding": lambda: SlidingCache(64), "int8": lambda: QuantizedCache(INT8)}
    for kind, make in makers.items():
        cache = TransformersCache.of(model.config, make)
        actual = model.generate(ids, past_key_values=cache, **options)
        assert torch.equal(actual, expected), kind
    decoder = Decoder.from_transformers(model)
    for kind, make in makers.items():
        cache, tokens = make(), ids
        with torch.no_grad():
            while tokens.shape[1] < expected.shape[1]:
                logits = decoder(tokens[:, cache.get_seq_length() :], cache)
                tokens = torch.cat([tokens, logits[:, -1:].argmax(dim=-1)], dim=1)
        assert torch.equal(tokens, expected), kind
