"""Masks against the definition, one pair of positions after the other."""

import pytest
import torch
from attention_cases import padded_rows
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.attention import causal_mask, token_positions, visible_keys

LIMITS = st.none() | st.integers(1, 11)


def sees(query, key, window, chunk):
    if key < 0 or key > query:
        return False
    near = window is None or key > query - window
    return near and (chunk is None or query // chunk == key // chunk)


@given(st.integers(0, 9), st.data(), LIMITS, LIMITS)
def test_the_queries_are_the_last_of_the_positions(keys, data, window, chunk):
    queries = data.draw(st.integers(0, keys))
    mask = causal_mask(queries, keys, window=window, chunk=chunk)
    expected = [
        [sees(query, key, window, chunk) for key in range(keys)]
        for query in range(keys - queries, keys)
    ]
    assert mask.dtype is torch.bool
    assert mask[0, 0].tolist() == expected


@given(padded_rows(), LIMITS, LIMITS)
def test_a_padded_row_sees_what_it_sees_alone_and_padding_sees_nothing(held, window, chunk):
    positions = token_positions(held)
    mask = visible_keys(positions, positions, window=window, chunk=chunk)
    for row, slots in zip(mask[:, 0], held, strict=True):
        tokens = int(slots.sum())
        alone = causal_mask(tokens, tokens, window=window, chunk=chunk)[0, 0]
        padding = len(slots) - tokens
        assert torch.equal(row[padding:, padding:], alone)
        assert not row[:padding].any()
        assert not row[:, :padding].any()


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_positions_count_the_tokens_of_a_row(slots):
    count, expected = 0, []
    for held in slots:
        expected.append(count if held else -1)
        count += held
    assert token_positions(torch.tensor([slots])).tolist() == [expected]
    assert token_positions(torch.tensor([slots]).long()).tolist() == [expected]


@given(st.integers(1, 9), st.integers(1, 9))
def test_a_window_shows_that_many_positions(length, window):
    seen = causal_mask(length, length, window=window)[0, 0].sum(dim=1)
    assert seen.tolist() == [min(window, position + 1) for position in range(length)]


def test_impossible_masks_are_refused():
    with pytest.raises(ValueError, match="6 queries stand among 5 keys"):
        causal_mask(6, 5)
    with pytest.raises(ValueError, match="window is 0; give 1 or more"):
        causal_mask(2, 2, window=0)
    with pytest.raises(ValueError, match="chunk is -1; give 1 or more"):
        causal_mask(2, 2, chunk=-1)
    with pytest.raises(ValueError, match=r"shape \(3,\); give one row of slots"):
        token_positions(torch.ones(3))
