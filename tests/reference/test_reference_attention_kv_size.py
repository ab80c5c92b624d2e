"""Predicted bytes are the measured ones, and the formula's arithmetic is the textbook's."""

import pytest
import torch
from attention_cases import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.attention import (
    KVCache,
    KVShape,
    QuantizedCache,
    SlidingCache,
    StaticCache,
)
from infopt_reference.attention.kv_size import bytes_per_number
from infopt_reference.quantization import preset

SIZES = st.integers(1, 5)


def fill(cache, shape, tokens, rows, dtype=torch.float16):
    for layer in range(shape.layers):
        numbers = normal(rows, shape.kv_heads, tokens, shape.head_dim, seed=layer, dtype=dtype)
        cache.update(numbers, numbers, layer)
    return cache


def held_bytes(cache):
    """Of the memory behind what the cache shows, whatever the cache says."""
    storages = {
        x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
        for layer in range(5)
        if cache.held_length(layer)
        for x in cache.logical_kv(layer)
    }
    return sum(storages.values())


@given(SIZES, SIZES, SIZES, st.integers(1, 12), SIZES, st.integers(1, 7), st.integers(0, 3))
@settings(max_examples=40)
def test_predicted_bytes_are_held(layers, kv_heads, pairs, tokens, rows, window, slack):
    shape = KVShape(layers, kv_heads, 2 * pairs)
    assert held_bytes(fill(KVCache(), shape, tokens, rows)) == shape.nbytes(tokens, rows)
    static = fill(StaticCache(12), shape, tokens, rows)
    assert held_bytes(static) == static.nbytes() == shape.nbytes(12, rows)
    sliding = fill(SlidingCache(window, slack=slack), shape, tokens, rows)
    predicted = shape.sliding_nbytes(tokens, window, rows, slack=slack)
    assert held_bytes(sliding) == sliding.nbytes() == predicted


@pytest.mark.parametrize("name", ["int4", "int3", "nf4", "fp4"])
@pytest.mark.parametrize("changes", [{}, {"group_size": 8}, {"group_size": 5}, {"packed": False}])
def test_predicted_bytes_of_codes_are_held(name, changes):
    shape, scheme = KVShape(2, 3, 16), preset(name, **changes)
    cache = fill(QuantizedCache(scheme), shape, 5, 2)
    assert cache.nbytes() == shape.quantized_nbytes(5, scheme, 2)


def test_a_llama_of_7_billion_takes_half_a_mebibyte_a_token():
    assert KVShape(layers=32, kv_heads=32, head_dim=128).nbytes(1) == 2**19


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 9))
def test_pages_waste_less_than_a_block_a_sequence(lengths, block_size):
    shape = KVShape(2, 1, 4)
    waste = shape.paged_nbytes(lengths, block_size) - shape.nbytes(sum(lengths))
    partly_filled = sum(1 for length in lengths if length % block_size)
    assert 0 <= waste <= partly_filled * shape.nbytes(block_size - 1)


def test_codes_without_groups_have_no_size():
    with pytest.raises(ValueError, match="a quantized cache has groups"):
        bytes_per_number(preset("int8"), 64)
