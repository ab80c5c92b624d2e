"""Attention against torch's own, against the definition in float64, and its laws."""

import math

import pytest
import torch
from attention_cases import HEADS, attention_inputs, normal, padded_rows, rounding_bound
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.attention import (
    attend,
    attend_with_lse,
    causal_mask,
    token_positions,
    visible_keys,
)
from torch.nn.functional import scaled_dot_product_attention

SEEDS = st.integers(0, 2**16)


@given(SEEDS, padded_rows(), st.data(), st.sampled_from(HEADS), st.none() | st.integers(1, 5))
def test_equals_torch_given_the_same_mask(seed, held, data, heads, window):
    batch, keys = held.shape
    count = data.draw(st.integers(1, keys))
    inputs = attention_inputs(
        seed, batch=batch, queries=count, keys=keys, heads=heads[0], kv_heads=heads[1]
    )
    positions = token_positions(held)
    mask = visible_keys(positions[:, keys - count :], positions, window=window)
    output = attend(*inputs, mask)
    expected = scaled_dot_product_attention(*inputs, attn_mask=mask, enable_gqa=True)
    blind = ~mask.any(dim=-1).expand(output.shape[:3])
    assert not output[blind].any()
    difference = (output - expected)[~blind].abs()
    assert difference.numel() == 0 or difference.max() <= rounding_bound(*inputs, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@given(seed=SEEDS, keys=st.integers(1, 40))
def test_low_precision_is_computed_in_float32_and_rounded_once(dtype, seed, keys):
    inputs = attention_inputs(seed, keys=keys, queries=1, dtype=dtype)
    output = attend(*inputs)
    exact = attend(*(x.double() for x in inputs))
    working = rounding_bound(*(x.double() for x in inputs), torch.float32)
    limits = torch.finfo(dtype)
    rounded = limits.eps / 2 * exact.abs().clamp(min=limits.smallest_normal)
    assert output.dtype is dtype
    assert ((output.double() - exact).abs() <= rounded + 2 * working).all()


@given(SEEDS, st.sampled_from(HEADS), st.integers(1, 7))
def test_grouped_heads_equal_repeated_ones(seed, heads, keys):
    queries, keys, values = attention_inputs(seed, heads=heads[0], kv_heads=heads[1], keys=keys)
    repeats = heads[0] // heads[1]
    output = attend(queries, keys, values)
    for head in range(heads[0]):
        single = (keys[:, head // repeats, None], values[:, head // repeats, None])
        expected = attend(queries[:, head, None], *single)
        bound = rounding_bound(queries, keys, values, torch.float64)
        assert (output[:, head, None] - expected).abs().max() <= bound


@given(SEEDS, st.integers(2, 9), st.data())
def test_later_tokens_have_no_influence(seed, length, data):
    changed = data.draw(st.integers(1, length - 1))
    queries, keys, values = attention_inputs(seed, queries=length, keys=length)
    mask = causal_mask(length, length)
    before = attend(queries, keys, values, mask)
    keys[:, :, changed:] *= -3
    values[:, :, changed:] += 1e6
    after = attend(queries, keys, values, mask)
    assert torch.equal(before[:, :, :changed], after[:, :, :changed])
    assert not torch.equal(before, after)


@pytest.mark.parametrize("shift", [-1e5, 0.0, 1e5])
def test_a_shift_of_all_logits_changes_nothing(shift):
    # Logits q·k + shift by one more dimension, whose product is `shift`: 2^-6 for float32 to keep.
    queries, keys, values = (x.float() for x in attention_inputs(1, keys=9, head_dim=15))
    queries, keys = (x.mul(64).round().div(64) for x in (queries, keys))
    queries = torch.cat([queries, torch.ones_like(queries[..., :1])], dim=-1)
    keys = torch.cat([keys, torch.full_like(keys[..., :1], shift)], dim=-1)
    output = attend(queries, keys, values, scale=1.0)
    exact = attend(queries.double(), keys.double(), values.double(), scale=1.0)
    # A logit near 1e5 is rounded to 2^-7, which moves a weight by that share, up and down.
    resolution = torch.finfo(torch.float32).eps * (abs(shift) + 100)
    bound = (2 * resolution * 16 + 32 * torch.finfo(torch.float32).eps) * values.abs().max()
    assert (output - exact).abs().max() <= bound
    ones = attend(queries, keys, torch.ones_like(values), scale=1.0)
    assert (ones - 1).abs().max() <= 16 * torch.finfo(torch.float32).eps


def test_queries_that_see_nothing_give_zero_and_finite_gradients():
    inputs = [x.requires_grad_() for x in attention_inputs(3)]
    mask = torch.tensor([[False] * 5, [True] * 5, [True, False, True, False, False]])
    output, lse = attend_with_lse(*inputs, mask)
    assert not output[:, :, 0].any()
    assert (lse[:, :, 0] == -math.inf).all()
    assert lse[:, :, 1:].isfinite().all()
    output.square().sum().backward()
    assert all(x.grad.isfinite().all() for x in inputs)


def test_no_keys_no_queries_no_rows():
    queries, keys, values = attention_inputs(4)
    output, lse = attend_with_lse(queries, keys[:, :, :0], values[:, :, :0])
    assert torch.equal(output, torch.zeros_like(queries))
    assert (lse == -math.inf).all()
    assert attend(queries[:, :, :0], keys, values).shape == (2, 4, 0, 8)
    assert attend(queries[:0], keys[:0], values[:0]).shape == (0, 4, 3, 8)


@settings(max_examples=25)
@given(SEEDS, st.sampled_from(HEADS), st.booleans())
def test_lse_and_sinks_are_those_of_the_definition(seed, heads, with_sinks):
    inputs = attention_inputs(seed, heads=heads[0], kv_heads=heads[1])
    sinks = normal(heads[0], seed=seed + 3) if with_sinks else None
    output, lse = attend_with_lse(*inputs, sinks=sinks)
    repeats = heads[0] // heads[1]
    for batch in range(2):
        for head in range(heads[0]):
            queries, keys, values = inputs[0][batch, head], *(x[batch] for x in inputs[1:])
            keys, values = keys[head // repeats], values[head // repeats]
            for index, query in enumerate(queries.tolist()):
                logits = [math.fsum(map(math.prod, zip(query, key, strict=True))) / math.sqrt(8)
                          for key in keys.tolist()]  # fmt: skip
                shares = [math.exp(logit) for logit in logits]
                total = math.fsum(shares) + (math.exp(sinks[head]) if with_sinks else 0)
                expected = (values.new_tensor(shares)[:, None] * values).sum(dim=0) / total
                bound = rounding_bound(*inputs, torch.float64)
                assert (output[batch, head, index] - expected).abs().max() <= bound
                terms = 4 * len(logits) + 16 + 20 * max(map(abs, logits))
                assert abs(lse[batch, head, index] - math.log(total)) <= terms * 2**-53


def test_gradients_are_right():
    inputs = [
        x.requires_grad_() for x in attention_inputs(5, batch=1, queries=2, keys=3, head_dim=2)
    ]
    assert torch.autograd.gradcheck(
        lambda *x: attend_with_lse(*x, causal_mask(2, 3), sinks=torch.zeros(4)), inputs
    )


def test_impossible_inputs_are_refused():
    queries, keys, values = attention_inputs(6)
    with pytest.raises(ValueError, match="4 query heads cannot share 3 kv heads evenly"):
        attend(queries, keys.repeat(1, 2, 1, 1)[:, :3], values)
    with pytest.raises(ValueError, match=r"dtype torch.float32; give a bool mask"):
        attend(queries, keys, values, torch.zeros(3, 5))
    with pytest.raises(ValueError, match="5 keys come with 4 values"):
        attend(queries, keys, values[:, :, :4])
