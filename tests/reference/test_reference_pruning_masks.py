"""Masks: exact counts, the right weights, ties to the lower index.

The oracles are brute force and, where there are no ties, torch.nn.utils.prune.
"""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.pruning import (
    FeatureNorms,
    NMSparseTensor,
    compress,
    global_masks,
    magnitude_scores,
    n_m_mask,
    unstructured_mask,
    wanda_scores,
)
from infopt_reference.quantization import packed_bytes
from torch import nn
from torch.nn.utils import prune

COLUMNS = st.integers(1, 12)
PATTERNS = [(2, 4), (1, 4), (1, 2), (4, 8), (3, 5), (4, 4)]
SPARSITIES = st.sampled_from([0.0, 1.0, 0.5, 0.25, 1 / 3, 0.1, 0.9]) | st.floats(0, 1)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])


@st.composite
def tensors(draw, columns=COLUMNS, dtype=DTYPES):
    """Up to three axes, few distinct values: ties everywhere."""
    shape = [*draw(st.lists(st.integers(1, 4), max_size=2)), draw(columns)]
    values = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0])
    flat = draw(st.lists(values, min_size=math.prod(shape), max_size=math.prod(shape)))
    return torch.tensor(flat).view(shape).to(draw(dtype))


def half_even(sparsity, count):
    """Rounded by exact fractions from the float64 product."""
    return round(Fraction(sparsity * count))


def kept_by_sorting(scores, count):
    """Positions of the ``count`` highest of a list, the lower position first among equals."""
    return set(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count])


@given(tensors(), SPARSITIES)
@settings(deadline=None)
def test_the_lowest_scores_go_and_ties_keep_the_lower_index(weight, sparsity):
    scores = magnitude_scores(weight)
    mask = unstructured_mask(scores, sparsity)
    flat = scores.flatten().tolist()
    kept = kept_by_sorting(flat, len(flat) - half_even(sparsity, len(flat)))
    assert mask.dtype is torch.bool
    assert mask.shape == weight.shape
    assert set(mask.flatten().nonzero().flatten().tolist()) == kept


@given(tensors(), SPARSITIES)
@settings(deadline=None)
def test_each_row_is_ranked_on_its_own(weight, sparsity):
    mask = unstructured_mask(weight.abs(), sparsity, per_row=True)
    for row, kept in zip(
        weight.reshape(-1, weight.shape[-1]), mask.reshape(-1, weight.shape[-1]), strict=True
    ):
        assert torch.equal(kept, unstructured_mask(row.abs(), sparsity))


@given(st.lists(tensors(dtype=st.just(torch.float32)), min_size=1, max_size=4), SPARSITIES)
@settings(deadline=None)
def test_one_ranking_over_all_tensors(weights, sparsity):
    scores = {f"w{i}": weight.abs() for i, weight in enumerate(weights)}
    masks = global_masks(scores, sparsity)
    flat = [value for tensor in scores.values() for value in tensor.flatten().tolist()]
    kept = kept_by_sorting(flat, len(flat) - half_even(sparsity, len(flat)))
    joined = torch.cat([mask.flatten() for mask in masks.values()])
    assert set(joined.nonzero().flatten().tolist()) == kept
    assert [m.shape for m in masks.values()] == [weight.shape for weight in weights]


@given(st.data(), st.sampled_from(PATTERNS))
@settings(deadline=None)
def test_n_of_each_m_stay_and_none_of_the_others_scores_more(data, pattern):
    kept, group = pattern
    weight = data.draw(tensors(st.integers(1, 3).map(lambda groups: groups * group)))
    mask = n_m_mask(weight.abs(), pattern)
    choices = list(itertools.combinations(range(group), kept))  # the earliest come first
    rows = weight.abs().double().reshape(-1, group).tolist()
    for scores, chosen in zip(rows, mask.reshape(-1, group).tolist(), strict=True):
        best = max(choices, key=lambda c: sorted((scores[i] for i in c), reverse=True))
        assert [i for i in range(group) if chosen[i]] == list(best)


@given(tensors(), SPARSITIES)
@settings(deadline=None)
def test_scores_are_not_modified(weight, sparsity):
    before = weight.clone()
    unstructured_mask(weight, sparsity)
    n_m_mask(weight, (weight.shape[-1], weight.shape[-1]))
    assert torch.equal(weight, before)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
def test_a_constant_tensor_loses_exactly_the_share_asked_for(value, sparsity):
    mask = unstructured_mask(torch.full((10, 10), value), sparsity)
    assert torch.equal(mask.flatten(), torch.arange(100) < 100 - round(100 * sparsity))
    assert n_m_mask(torch.full((1, 4), value), (2, 4)).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize(("count", "removed"), [(1, 0), (3, 2), (5, 2), (7, 4), (9, 4)])
def test_a_half_rounds_to_even(count, removed):
    assert int((~unstructured_mask(torch.rand(count), 0.5)).sum()) == removed


@pytest.mark.parametrize("sparsity", [0.1, 0.37, 0.5, 0.93])
def test_without_ties_the_mask_is_that_of_torch(sparsity):
    torch.manual_seed(0)
    layers = [nn.Linear(40, 13), nn.Linear(13, 7)]
    scores = {f"{i}": magnitude_scores(layer.weight) for i, layer in enumerate(layers)}
    ours, everywhere = unstructured_mask(scores["0"], sparsity), global_masks(scores, sparsity)
    prune.global_unstructured(
        [(layer, "weight") for layer in layers], prune.L1Unstructured, amount=sparsity
    )
    for i, layer in enumerate(layers):
        assert torch.equal(everywhere[f"{i}"], layer.weight_mask.bool())
    prune.remove(layers[0], "weight")
    fresh = nn.Linear(40, 13)
    fresh.weight.data = scores["0"].clone()
    prune.l1_unstructured(fresh, "weight", amount=sparsity)
    assert torch.equal(ours, fresh.weight_mask.bool())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unstructured_mask(torch.ones(3), -0.1), r"sparsity is -0\.1"),
        (lambda: unstructured_mask(torch.ones(3), 1.1), r"sparsity is 1\.1"),
        (lambda: unstructured_mask(torch.ones(3), math.nan), "sparsity is nan"),
        (lambda: unstructured_mask(torch.tensor([1.0, math.nan]), 0.5), r"scores\[1\] is nan"),
        (lambda: unstructured_mask(torch.ones(0, 3), 0.5), r"empty, shape \(0, 3\)"),
        (lambda: unstructured_mask(torch.tensor(1.0), 0.5, per_row=True), "has no rows"),
        (lambda: n_m_mask(torch.ones(2, 6), (2, 4)), r"\(2, 6\); 2:4 needs a last axis"),
        (lambda: n_m_mask(torch.ones(4), (0, 4)), "pattern is 0:4"),
        (lambda: n_m_mask(torch.ones(4), (5, 4)), "pattern is 5:4"),
        (lambda: n_m_mask(torch.ones(4), (2.0, 4)), r"pattern is 2\.0:4"),
        (lambda: global_masks({}, 0.5), "at least one"),
        (lambda: global_masks({"a": torch.tensor([math.inf])}, 0.5), r"scores of a\[0\] is inf"),
        (
            lambda: global_masks({"a": torch.ones(1), "b": torch.ones(1).half()}, 0.5),
            "float16 on cpu, torch.float32 on cpu",
        ),
    ],
)
def test_what_has_no_mask_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wanda_scores_are_magnitude_times_norm_and_can_overrule_magnitude():
    inputs = torch.tensor([[3.0, 0.1], [4.0, 0.0]])
    norms = FeatureNorms(2)
    norms.observe(inputs)
    assert torch.equal(norms.norms, inputs.double().norm(dim=0))
    weight = torch.tensor([[1.0, -2.0], [0.5, 100.0]])
    scores = wanda_scores(weight, norms.norms)
    assert torch.equal(scores, weight.double().abs() * inputs.double().norm(dim=0))
    mask = unstructured_mask(scores, 0.5, per_row=True)
    assert mask.tolist() == [[True, False], [False, True]]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.integers(0, 2**16))
@settings(deadline=None)
def test_norms_depend_on_the_tokens_and_not_on_their_batches(sizes, seed):
    torch.manual_seed(seed)
    tokens = torch.randint(-8, 8, (max(1, sum(sizes)), 3)).float()  # integers: sums are exact
    whole, parts = FeatureNorms(3), FeatureNorms(3)
    whole.observe(tokens[torch.randperm(len(tokens))])
    for part in tokens.split([*sizes, len(tokens) - sum(sizes)]):
        parts.observe(part)
    assert torch.equal(whole.norms, parts.norms)
    assert whole.tokens == parts.tokens


def test_padding_is_not_looked_at():
    torch.manual_seed(0)
    rows = [torch.randn(length, 4) for length in (5, 2)]
    batch, mask = torch.full((2, 5, 4), math.nan), torch.zeros(2, 5, dtype=torch.long)
    for i, row in enumerate(rows):
        batch[i, : len(row)], mask[i, : len(row)] = row, 1
    padded, plain = FeatureNorms(4), FeatureNorms(4)
    padded.observe(batch, mask)
    plain.observe(torch.cat(rows))
    assert torch.equal(padded.norms, plain.norms)
    with pytest.raises(ValueError, match="is nan"):
        padded.observe(batch)


def test_norms_need_a_token_and_scores_need_fitting_norms():
    with pytest.raises(ValueError, match="no token"):
        _ = FeatureNorms(2).norms
    with pytest.raises(ValueError, match=r"\(3, 2\) and the norms \(3,\)"):
        wanda_scores(torch.ones(3, 2), torch.ones(3))
    with pytest.raises(ValueError, match="norms go down to -1"):
        wanda_scores(torch.ones(3, 2), -torch.ones(2))


@given(st.data(), st.sampled_from(PATTERNS))
@settings(deadline=None)
def test_sparse_storage_returns_every_weight(data, pattern):
    kept, group = pattern
    weight = data.draw(tensors(st.integers(1, 3).map(lambda groups: groups * group)))
    weight = torch.where(n_m_mask(weight.abs(), pattern), weight, 0)
    stored = compress(weight, pattern)
    assert torch.equal(stored.decompress(), weight)
    assert stored.decompress().dtype is weight.dtype
    assert stored.values.shape == (*weight.shape[:-1], weight.shape[-1] // group * kept)
    bits = max(1, math.ceil(math.log2(group)))
    count = weight.numel() // group * kept
    assert stored.nbytes == count * weight.element_size() + packed_bytes(count, bits)


def test_two_of_four_in_16_bit_take_nine_sixteenths():
    weight = torch.randn(64, 128).half()
    stored = compress(torch.where(n_m_mask(weight.abs(), (2, 4)), weight, 0))
    assert isinstance(stored, NMSparseTensor)
    assert stored.nbytes * 16 == stored.dense_nbytes * 9
    assert stored.dense_nbytes == weight.nbytes


def test_a_group_with_too_many_values_is_named():
    weight = torch.zeros(3, 8)
    weight[1, 4:7] = 1
    with pytest.raises(ValueError, match=r"4 weights from \[1, 4\] have 3 that are not 0; 2:4"):
        compress(weight)
    with pytest.raises(ValueError, match=r"\(2, 6\); 2:4 needs"):
        compress(torch.zeros(2, 6))
    with pytest.raises(ValueError, match="up to 8 bits"):
        compress(torch.zeros(512), (2, 512))
