"""The layer with a cache equals the layer without, however the sequence is cut into calls."""

import math

import pytest
import torch
from attention_cases import normal, padded_rows
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.attention import (
    CachedAttention,
    KVCache,
    QuantizedCache,
    Rope,
    SlidingCache,
    StaticCache,
    token_positions,
)
from infopt_reference.quantization import QuantizationScheme
from torch import nn

HIDDEN, HEAD_DIM = 24, 8
SEEDS = st.integers(0, 2**16)
WINDOWS = st.none() | st.integers(1, 6)
KV_HEADS = st.sampled_from([1, 2, 4])


def make_layer(seed, kv_heads=2, window=None, bias=True):
    torch.manual_seed(seed)
    rope = Rope(HEAD_DIM)
    layer = CachedAttention(HIDDEN, 4, kv_heads, HEAD_DIM, rope=rope, window=window, bias=bias)
    return layer.double().requires_grad_(False)


def layer_bound(layer, x):
    """How far two orders of sums in float64 may lie apart.

    Queries, keys and values are sums of HIDDEN products; a logit is one of D; an error of a logit
    moves the weights by twice as much; then come sums over S keys and over H·D features.
    """
    largest = {
        name: float(getattr(layer, name)(x).unflatten(2, (-1, HEAD_DIM)).norm(dim=-1).max())
        for name in ("q_proj", "k_proj", "v_proj")
    }
    logit = largest["q_proj"] * largest["k_proj"] / math.sqrt(HEAD_DIM)
    features = layer.o_proj.in_features
    relative = 2 * logit * (2 * HIDDEN + HEAD_DIM + 16) + HIDDEN + 2 * x.shape[1] + features + 16
    output = float(layer.o_proj.weight.abs().sum(dim=1).max()) * largest["v_proj"]
    return torch.finfo(torch.float64).eps * relative * output


def run_in_chunks(layer, x, cache, cuts, held):
    outputs, start = [], 0
    for end in sorted({min(cut, x.shape[1]) for cut in cuts} | {x.shape[1]}):
        positions = token_positions(held[:, :end])
        outputs.append(layer(x[:, start:end], cache, positions))
        start = end
    return torch.cat(outputs, dim=1)


def caches(length, window):
    made = [KVCache(), StaticCache(length)]
    return made if window is None else [*made, SlidingCache(window), SlidingCache(window, slack=2)]


@given(SEEDS, padded_rows(), st.sets(st.integers(1, 8)), WINDOWS, KV_HEADS)
def test_cached_equals_uncached_for_every_split(seed, held, cuts, window, kv_heads):
    layer = make_layer(seed, kv_heads, window)
    x = normal(*held.shape, HIDDEN, seed=seed)
    expected = layer(x, positions=token_positions(held))
    for cache in caches(held.shape[1], window):
        output = run_in_chunks(layer, x, cache, cuts, held)
        assert (output - expected).abs().max() <= layer_bound(layer, x)
        assert cache.get_seq_length() == held.shape[1]


@given(SEEDS, padded_rows(), WINDOWS, KV_HEADS)
def test_a_padded_row_equals_the_row_alone(seed, held, window, kv_heads):
    layer = make_layer(seed, kv_heads, window)
    x = normal(*held.shape, HIDDEN, seed=seed)
    together = layer(x, positions=token_positions(held))
    bound = layer_bound(layer, x)
    for row, (slots, output) in enumerate(zip(held, together, strict=True)):
        assert torch.equal(output[~slots], torch.zeros_like(output[~slots]))
        if slots.any():
            alone = layer(x[row, slots][None])[0]
            assert (output[slots] - alone).abs().max() <= bound


@given(SEEDS, st.integers(2, 9), WINDOWS, st.data())
def test_a_token_reaches_the_window_behind_it_and_nothing_else(seed, length, window, data):
    layer, changed = make_layer(seed, window=window), data.draw(st.integers(0, length - 1))
    x = normal(2, length, HIDDEN, seed=seed)
    before = layer(x)
    x[:, changed] += 1
    differs = (layer(x) != before).any(dim=2)
    reached = torch.arange(length) >= changed
    if window is not None:
        reached &= torch.arange(length) < changed + window
    assert torch.equal(differs, reached.expand(2, -1))


@given(SEEDS, st.integers(1, 50), st.integers(1, 9))
def test_only_distances_between_tokens_count(seed, shift, length):
    layer, x = make_layer(seed), normal(2, length, HIDDEN, seed=seed)
    slots = torch.arange(length)[None]
    shifted, plain = (layer(x, positions=slots + offset) for offset in (shift, 0))
    # An angle is off by so many eps, and so much more is each of the HIDDEN terms of a logit.
    bound = layer_bound(layer, x) * (1 + 4 * (length + shift) / HIDDEN)
    assert (shifted - plain).abs().max() <= bound


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_equals_torchs_multihead_attention(kv_heads):
    layer = make_layer(3, kv_heads)
    layer.rope = None
    x = normal(2, 7, HIDDEN, seed=3)
    # Its embedding dimension is H·D on the way in too: the input is padded with zeros.
    peer = nn.MultiheadAttention(4 * HEAD_DIM, 4, batch_first=True, dtype=torch.float64)
    weights = [layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight]
    biases = [layer.q_proj.bias, layer.k_proj.bias, layer.v_proj.bias]
    repeated = [
        w.view(-1, HEAD_DIM, *w.shape[1:]).repeat_interleave(4 * HEAD_DIM // w.shape[0], dim=0)
        for w in (*weights, *biases)
    ]
    with torch.no_grad():
        peer.in_proj_weight.zero_()
        peer.in_proj_weight[:, :HIDDEN] = torch.cat([w.flatten(0, 1) for w in repeated[:3]])
        peer.in_proj_bias.copy_(torch.cat([b.flatten() for b in repeated[3:]]))
        peer.out_proj.weight.zero_()
        peer.out_proj.weight[:HIDDEN] = layer.o_proj.weight
        peer.out_proj.bias.zero_()
        padded = nn.functional.pad(x, (0, 4 * HEAD_DIM - HIDDEN))
        hidden = torch.ones(7, 7, dtype=torch.bool).triu(1)
        expected, _ = peer(padded, padded, padded, attn_mask=hidden, need_weights=False)
    assert (layer(x) - expected[..., :HIDDEN]).abs().max() <= layer_bound(layer, x)


@given(SEEDS, st.sets(st.integers(1, 8)), st.sampled_from([4, 8]))
def test_with_codes_the_output_moves_no_further_than_the_codes(seed, cuts, bits):
    layer = make_layer(seed)
    scheme = QuantizationScheme(bits=bits, granularity="group", group_size=HEAD_DIM)
    x, held = normal(2, 9, HIDDEN, seed=seed), torch.ones(2, 9, dtype=torch.bool)
    cache, exact_cache = QuantizedCache(scheme), KVCache()
    output = run_in_chunks(layer, x, cache, cuts, held)
    exact = layer(x, exact_cache)
    pairs = list(zip(cache.logical_kv(0), exact_cache.logical_kv(0), strict=True))
    key_error, value_error = ((ours - theirs).abs().max() for ours, theirs in pairs)
    # Every number is within half a step of 1 / (2^(bits − 1) − 1) of its group's largest.
    for error, (_, exact_numbers) in zip((key_error, value_error), pairs, strict=True):
        step = exact_numbers.abs().max() / (2 ** (bits - 1) - 1)
        assert 0 < error <= step / 2 * (1 + torch.finfo(torch.float32).eps)
    # A logit moves by |q|·|δk|, the weights by a factor of exp(±2δ), the values by their own error.
    longest = layer.q_proj(x).unflatten(2, (-1, HEAD_DIM)).abs().sum(dim=-1).max()
    spread = math.expm1(2 * float(longest * key_error) / math.sqrt(HEAD_DIM))
    largest = layer.v_proj(x).abs().max()
    moved = layer.o_proj.weight.abs().sum(dim=1).max() * (value_error + spread * largest)
    assert (output - exact).abs().max() <= moved + layer_bound(layer, x)


def test_positions_of_another_number_of_slots_are_refused():
    layer, cache = make_layer(1), KVCache()
    layer(normal(1, 3, HIDDEN, seed=1), cache)
    with pytest.raises(ValueError, match="positions are given for 1 slots, there are 4"):
        layer(normal(1, 1, HIDDEN, seed=1), cache, torch.tensor([[3]]))
