"""Tiles and merged parts equal attention over all keys at once."""

import math
from itertools import pairwise

import pytest
import torch
from attention_cases import HEADS, attention_inputs, normal, rounding_bound
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.attention import attend_in_tiles, attend_with_lse, merge, with_sinks

SEEDS = st.integers(0, 2**16)


def random_mask(seed, queries, keys):
    """Some queries see nothing, and some tiles hold nothing that is seen."""
    seen = normal(2, 1, queries, keys, seed=seed) > normal(2, 1, queries, 1, seed=seed + 1)
    seen[:, :, 0] = False
    return seen


def assert_equal(actual, expected, inputs):
    bound = rounding_bound(*inputs, torch.float64)
    assert (actual[0] - expected[0]).abs().max() <= bound
    blind = expected[1] == -math.inf
    assert torch.equal(actual[1] == -math.inf, blind)
    assert not actual[0][blind].any()
    assert actual[0].isfinite().all()
    # A relative error of the weights is an absolute one of the logarithm.
    relative = rounding_bound(*inputs[:2], torch.ones_like(inputs[2]), torch.float64)
    assert ((actual[1] - expected[1])[~blind].abs() <= relative).all()


@given(SEEDS, st.integers(0, 17), st.integers(1, 20), st.sampled_from(HEADS))
def test_any_tile_size_equals_all_keys_at_once(seed, keys, tile, heads):
    inputs = attention_inputs(seed, heads=heads[0], kv_heads=heads[1], keys=keys)
    mask = random_mask(seed, 3, keys)
    tiled = attend_in_tiles(*inputs, mask, tile=tile)
    assert_equal(tiled, attend_with_lse(*inputs, mask), inputs)


@pytest.mark.parametrize("order", ["rising", "falling"])
@pytest.mark.parametrize("tile", [1, 2, 3, 7, 16])
def test_the_largest_logit_may_come_last_or_first(order, tile):
    queries, keys, values = attention_inputs(1, keys=16, head_dim=1, kv_heads=4)
    queries = queries.abs() + 1
    steps = torch.arange(16.0, dtype=torch.float64) * 50
    keys = (steps if order == "rising" else steps.flip(0))[None, None, :, None].expand(keys.shape)
    inputs = queries, keys, values
    assert_equal(attend_in_tiles(*inputs, tile=tile), attend_with_lse(*inputs), inputs)


@given(SEEDS, st.integers(1, 12), st.lists(st.integers(0, 12), max_size=4), st.randoms())
def test_parts_of_the_keys_merge_in_any_order(seed, keys, cuts, random):
    inputs = attention_inputs(seed, keys=keys)
    mask = random_mask(seed, 3, keys)
    queries, all_keys, values = inputs
    edges = sorted({0, keys, *(min(cut, keys) for cut in cuts)})
    parts = [
        attend_with_lse(queries, all_keys[:, :, a:b], values[:, :, a:b], mask[..., a:b])
        for a, b in pairwise(edges)
    ]
    random.shuffle(parts)
    whole = attend_with_lse(*inputs, mask)
    assert_equal(merge(parts), whole, inputs)
    nested = merge([merge(parts[:1]), *parts[1:]])
    assert_equal(nested, whole, inputs)


@given(SEEDS, st.integers(1, 6))
def test_sinks_take_their_share_once_after_merging(seed, cut):
    queries, keys, values = inputs = attention_inputs(seed, keys=7)
    sinks = normal(4, seed=seed + 9)
    parts = [
        attend_in_tiles(queries, keys[:, :, part], values[:, :, part], tile=2)
        for part in (slice(cut), slice(cut, None))
    ]
    merged = with_sinks(*merge(parts), sinks)
    assert_equal(merged, attend_with_lse(*inputs, sinks=sinks), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiles_in_low_precision_accumulate_in_float32(dtype):
    inputs = attention_inputs(8, keys=300, dtype=dtype)
    exact, exact_lse = attend_with_lse(*(x.double() for x in inputs))
    output, lse = attend_in_tiles(*inputs, tile=7)
    plain = attend_with_lse(*inputs)
    working = rounding_bound(*(x.double() for x in inputs), torch.float32)
    assert output.dtype is dtype
    assert (output.double() - exact).abs().max() <= 2 * (plain[0].double() - exact).abs().max()
    assert (lse.double() - exact_lse).abs().max() <= working


def test_nothing_to_merge_and_empty_tiles_are_refused():
    with pytest.raises(ValueError, match="no parts to merge"):
        merge([])
    with pytest.raises(ValueError, match="tile is 0; give 1 key or more"):
        attend_in_tiles(*attention_inputs(1), tile=0)
