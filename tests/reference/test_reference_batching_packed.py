"""Chunks of many sequences in one pass have the logits of each sequence alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.batching.packed import Chunk, PackedModel
from tiny_models import CONFIGS, VOCABULARY, make_model
from transformers import AutoModelForCausalLM, MistralConfig

WINDOW = 5
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "layers": 2}


def model_of(name):
    if name in CONFIGS:
        return make_model(name).double()
    if name == "gpt2 scaled":  # logits that are divided by something else in each layer
        config = CONFIGS["gpt2"]()
        config.scale_attn_by_inverse_layer_idx = True
        torch.manual_seed(7)
        return AutoModelForCausalLM.from_config(config).double().eval()
    llama = CONFIGS["llama"]()
    shape = {key: getattr(llama, key) for key in ("vocab_size", "hidden_size", "num_hidden_layers")}
    torch.manual_seed(7)
    config = MistralConfig(
        **shape,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=WINDOW,
        initializer_range=0.2,
    )
    return AutoModelForCausalLM.from_config(config).double().eval()


MODELS = {}


def packed_of(name):
    """The architecture's model, on pages that hold nothing but NaN."""
    if name not in MODELS:
        MODELS[name] = model_of(name)
    return PackedModel(MODELS[name], num_blocks=64, block_size=4)


def plain_logits(name, ids):
    with torch.no_grad():
        return MODELS[name](torch.tensor([ids])).logits[0]


def bound(expected):
    """What float64 may differ by: one rounding for each term of the sums along the way."""
    terms = SHAPE["layers"] * (SHAPE["hidden_size"] * 4 + SHAPE["intermediate_size"] * 2 + 64)
    return terms * torch.finfo(torch.float64).eps * expected.abs().max()


# A step is for each sequence how many tokens it goes on by (0: it is not in the step).
TRACES = st.lists(st.lists(st.sampled_from([0, 1, 1, 2, 6]), min_size=3, max_size=3), max_size=8)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "gpt2 scaled", "mistral"])
@settings(max_examples=15)
@given(trace=TRACES, wanted=st.randoms(use_true_random=False))
def test_logits_are_those_of_the_sequence_alone(name, trace, wanted):
    packed = packed_of(name)
    sequences = {i: [(31 * i + 7 * t) % VOCABULARY for t in range(48)] for i in range(3)}
    alone = {i: plain_logits(name, ids) for i, ids in sequences.items()}
    done = dict.fromkeys(sequences, 0)
    for i in sequences:
        packed.pages.allocate(i)
    for counts in trace:
        chunks = []
        for i, count in enumerate(counts):
            if count:
                packed.pages.append(i, count)
                tokens = sequences[i][done[i] : done[i] + count]
                chunks.append(Chunk(i, tokens, done[i], wanted.random() < 0.8))
                done[i] += count
        if not chunks:
            continue
        logits = packed.logits(chunks)
        expected = [alone[c.sequence][done[c.sequence] - 1] for c in chunks if c.samples]
        assert len(logits) == len(expected)
        for actual, row in zip(logits, expected, strict=True):
            assert (actual - row).abs().max() <= bound(row)


def test_blocks_of_others_and_places_without_a_token_are_never_read():
    packed = packed_of("llama")
    for i, length in enumerate((1, 9, 4)):
        packed.pages.allocate(i, length)
    packed.logits([Chunk(i, [5] * n, 0, True) for i, n in enumerate((1, 9, 4))])
    held = {block for i in (0, 2) for block in packed.pages.block_table(i)}
    packed.pages.free(1)
    for pages in (packed.pages.keys, packed.pages.values):
        for block in set(range(64)) - held:
            pages[:, block] = math.nan
    for i in (0, 2):
        packed.pages.append(i)
    logits = packed.logits([Chunk(0, [6], 1, True), Chunk(2, [6], 4, True)])
    assert logits.isfinite().all()


def test_a_pass_in_which_nobody_samples_has_no_logits():
    packed = packed_of("llama")
    packed.pages.allocate("a", 3)
    assert packed.logits([Chunk("a", [1, 2, 3], 0, False)]).shape == (0, VOCABULARY)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_model_is_as_usual_while_a_pass_is_computed(name):
    packed = packed_of(name)
    packed.pages.allocate("a", 9)
    before, during = plain_logits(name, list(range(9))), []
    embedding = packed._network.get_input_embeddings()
    forward = embedding.forward

    def somebody_else_too(ids):
        during.append(plain_logits(name, list(range(9))))
        return forward(ids)

    embedding.forward = somebody_else_too
    packed.logits([Chunk("a", list(range(9)), 0, True)])
    assert torch.equal(before, *during)


def test_the_weights_are_the_models_own():
    packed = packed_of("llama")
    own = dict(MODELS["llama"].named_parameters())
    copied = dict(packed._network.named_parameters())
    assert own.keys() == copied.keys()
    assert all(copied[name] is parameter for name, parameter in own.items())
    assert packed._network.get_input_embeddings() is not MODELS["llama"].get_input_embeddings()


def test_models_that_would_be_computed_wrongly_are_refused():
    with pytest.raises(ValueError, match="training mode"):
        PackedModel(model_of("llama").train(), 4, 4)
    with pytest.raises(ValueError, match="soft-capped"):
        PackedModel(make_model("gemma2"), 4, 4)
