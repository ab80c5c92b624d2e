"""Statistics of a layer's inputs."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.quantization.calibration import (
    ActivationStatistics,
    HessianStatistics,
    output_mse,
)

FEATURES = 7


def tokens(seed, count, dtype=torch.float32):
    return torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed)).to(dtype)


def observed(statistics, batches):
    result = statistics(FEATURES)
    for batch in batches:
        result.observe(*batch) if isinstance(batch, tuple) else result.observe(batch)
    return result


def sum_bound(x):
    """How far a float32 sum of the products of x may be from the exact one, in units of H."""
    magnitudes = (x.double().abs().T @ x.double().abs()) * 2 / len(x)
    return magnitudes * (len(x) + 1) * torch.finfo(torch.float32).eps


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), cuts=st.sets(st.integers(1, 39), max_size=6))
def test_hessian_is_two_over_n_times_the_sum_however_the_tokens_are_split(seed, cuts):
    x = tokens(seed, 40)
    edges = [0, *sorted(cuts), 40]
    batches = [x[a:b] for a, b in itertools.pairwise(edges)]
    hessian = observed(HessianStatistics, batches).hessian
    expected = (x.double().T @ x.double()) * 2 / 40
    assert hessian.dtype is torch.float64
    assert bool(((hessian - expected).abs() <= sum_bound(x)).all())


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), cuts=st.sets(st.integers(1, 39), max_size=6))
def test_magnitudes_do_not_depend_on_split_or_order(seed, cuts):
    x = tokens(seed, 40)
    edges = [0, *sorted(cuts), 40]
    shuffled = x[torch.randperm(40, generator=torch.Generator().manual_seed(seed))]
    split = [shuffled[a:b] for a, b in itertools.pairwise(edges)]
    statistics = observed(ActivationStatistics, split)
    assert torch.equal(statistics.max_abs, x.double().abs().amax(dim=0))
    mean = x.double().abs().mean(dim=0)
    # The sums are of float32 numbers in float64: 40 additions.
    torch.testing.assert_close(
        statistics.mean_abs, mean, rtol=40 * torch.finfo(torch.float64).eps, atol=0
    )


@pytest.mark.parametrize("statistics", [HessianStatistics, ActivationStatistics])
@pytest.mark.parametrize("padding", [1e4, float("nan"), float("inf")])
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.int64, torch.float32])
def test_padding_changes_nothing(statistics, padding, mask_dtype):
    lengths = (5, 2, 9)
    padded = torch.full((3, 9, FEATURES), padding)
    mask = torch.zeros(3, 9, dtype=mask_dtype)
    alone = [tokens(length, length) for length in lengths]
    for row, sequence in enumerate(alone):
        padded[row, 9 - len(sequence) :] = sequence  # on the left, as for generation
        mask[row, 9 - len(sequence) :] = 1
    together = observed(statistics, [(padded, mask)])
    one_by_one = observed(statistics, alone)
    assert together.tokens == one_by_one.tokens == sum(lengths)
    for name in ("hessian",) if statistics is HessianStatistics else ("mean_abs", "max_abs"):
        torch.testing.assert_close(
            getattr(together, name),
            getattr(one_by_one, name),
            rtol=0,
            atol=float(sum_bound(torch.cat(alone)).max()),
        )


@pytest.mark.parametrize("statistics", [HessianStatistics, ActivationStatistics])
def test_values_that_are_not_finite_are_refused_and_leave_no_trace(statistics):
    good, bad = tokens(0, 4), tokens(1, 4)
    bad[2, 3] = float("nan")
    gathered = observed(statistics, [good])
    with pytest.raises(ValueError, match=r"inputs\[2, 3\] is nan"):
        gathered.observe(bad)
    assert gathered.tokens == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_summed_in_a_wider_type(dtype):
    x = torch.full((3, FEATURES), 300.0, dtype=dtype)  # 300² overflows float16
    assert torch.equal(observed(HessianStatistics, [x]).hessian, 2 * x.double().T @ x.double() / 3)


def test_float64_inputs_keep_their_precision():
    x = tokens(3, 50, torch.float64) + 1e-12
    exact = x.T @ x / 25
    bound = 51 * torch.finfo(torch.float64).eps * (x.abs().T @ x.abs() / 25)
    assert bool(((observed(HessianStatistics, [x]).hessian - exact).abs() <= bound).all())


@pytest.mark.parametrize("statistics", [HessianStatistics, ActivationStatistics])
def test_wrong_shapes_and_missing_tokens_are_named(statistics):
    gathered = statistics(FEATURES)
    with pytest.raises(ValueError, match=r"shape \(4, 5\); the layer takes \[\.\.\., 7\]"):
        gathered.observe(torch.zeros(4, 5))
    with pytest.raises(ValueError, match=r"mask has shape \(4, 1\).*need \(4,\)"):
        gathered.observe(torch.zeros(4, FEATURES), torch.ones(4, 1))
    gathered.observe(torch.zeros(4, FEATURES), torch.zeros(4))
    with pytest.raises(ValueError, match="no token was observed"):
        _ = gathered.hessian if statistics is HessianStatistics else gathered.mean_abs


def test_output_error_is_the_mean_over_tokens_of_the_squared_difference():
    x = tokens(5, 30, torch.float64)
    generator = torch.Generator().manual_seed(6)
    weight, candidate = (
        torch.randn(4, FEATURES, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    hessian = observed(HessianStatistics, [x]).hessian
    expected = (x @ (weight - candidate).T).square().mean(dim=0)
    eps = torch.finfo(torch.float64).eps
    torch.testing.assert_close(
        output_mse(weight, candidate, hessian), expected, rtol=2 * 30 * FEATURES * eps, atol=0
    )
    assert not output_mse(weight, weight, hessian).any()
