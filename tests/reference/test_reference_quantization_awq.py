"""AWQ: the search for scales, and clipping."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.quantization import (
    ActivationStatistics,
    HessianStatistics,
    QuantizationScheme,
    awq_scales,
    clip_weights,
    output_mse,
    preset,
    quantize,
    search_awq_scales,
)

FEATURES = 32
SCHEMES = {
    "groups": QuantizationScheme(bits=3, granularity="group", group_size=8),
    "ragged groups": preset("int3", group_size=12),
    "channels": QuantizationScheme(bits=4, symmetric=False, granularity="channel"),
    "tensor": QuantizationScheme(bits=4),
    "nf4": preset("nf4", group_size=16),
}


def inputs(seed, count=200):
    """Correlated, and a few features far larger than the others, as in language models."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(FEATURES, FEATURES, generator=generator)
    sizes = torch.ones(FEATURES)
    sizes[::11] = 20
    return torch.randn(count, FEATURES, generator=generator) @ mixing * sizes


def weights(seed, *rows):
    generator = torch.Generator().manual_seed(seed + 1)
    return [torch.randn(count, FEATURES, generator=generator) for count in rows]


def statistics(x):
    hessian, activations = HessianStatistics(FEATURES), ActivationStatistics(FEATURES)
    hessian.observe(x)
    activations.observe(x)
    return activations.mean_abs, hessian.hessian


def error_on(x, weights, scales, scheme):
    """From the outputs themselves: no Hessian involved."""
    total = 0.0
    for weight in weights:
        rounded = quantize(weight.double() * scales, scheme).dequantize() / scales
        total += float((x.double() @ (weight.double() - rounded).T).square().mean(0).sum())
    return total


@pytest.mark.parametrize("name", SCHEMES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_search_is_never_worse_than_round_to_nearest(name, seed):
    x, layers = inputs(seed), weights(seed, 6, 10)
    found = search_awq_scales(layers, *statistics(x), SCHEMES[name])
    ours, nearest = (
        error_on(x, layers, s, SCHEMES[name]) for s in (found.scales, torch.ones(FEATURES).double())
    )
    # The search measures by H, which sums 200 products in float32.
    slack = 1 + FEATURES**2 * 200 * torch.finfo(torch.float32).eps
    assert ours <= nearest * slack
    assert found.error == pytest.approx(ours, rel=slack - 1)


@pytest.mark.parametrize("name", ["groups", "ragged groups", "nf4"])
def test_search_helps_where_few_features_are_large(name):
    x, layers = inputs(3), weights(3, 40)
    found = search_awq_scales(layers, *statistics(x), SCHEMES[name])
    nearest = error_on(x, layers, torch.ones(FEATURES).double(), SCHEMES[name])
    assert found.ratio is not None
    assert found.error < nearest
    # The features with large activations are the ones whose weights grow.
    assert found.scales[::11].mean() > found.scales.mean()


def test_search_returns_the_best_of_its_ratios():
    x, layers = inputs(4), weights(4, 12)
    mean_abs, hessian = statistics(x)
    found = search_awq_scales(layers, mean_abs, hessian, SCHEMES["groups"], steps=7)
    for step in range(8):
        scales = awq_scales(layers, mean_abs, step / 7, SCHEMES["groups"])
        rounded = quantize(layers[0].double() * scales, SCHEMES["groups"]).dequantize() / scales
        assert found.error <= float(output_mse(layers[0], rounded, hessian).sum())


def test_scales_are_those_of_the_formula():
    layer, mean_abs = weights(5, 4)[0], torch.rand(FEATURES).double() + 0.1
    scheme = SCHEMES["groups"]
    sizes = torch.zeros(FEATURES).double()
    for row in layer.double():
        for start in range(0, FEATURES, 8):
            group = row[start : start + 8].abs()
            sizes[start : start + 8] += group / group.max() / len(layer)
    raw = mean_abs**0.3 / sizes**0.7
    expected = raw / (raw.max() * raw.min()).sqrt()
    torch.testing.assert_close(awq_scales([layer], mean_abs, 0.3, scheme), expected)


def test_one_outlier_token_hardly_moves_the_scales():
    x, layers = inputs(6, count=4000), weights(6, 12)
    spoiled = x.clone()
    spoiled[17, 5] = 100 * x[:, 5].abs().max()
    for ratio in (0.25, 0.5, 1.0):
        plain, moved = (
            awq_scales(layers, statistics(each)[0], ratio, SCHEMES["groups"])
            for each in (x, spoiled)
        )
        # One token of n that is k times the largest adds k/n of the largest to the mean. By the
        # largest in place of the mean, the scale would grow by 100^ratio.
        growth = 1 + 100 * float(x[:, 5].abs().max() / x[:, 5].abs().mean()) / 4000
        assert float((moved[5] / plain[5]).abs()) <= growth**ratio
        others = torch.arange(FEATURES) != 5
        torch.testing.assert_close(moved[others] / moved[0], plain[others] / plain[0])


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_scales_are_finite_and_positive_for_dead_features_and_columns(ratio):
    layer, mean_abs = weights(7, 4)[0], torch.rand(FEATURES).double()
    mean_abs[3] = 0
    mean_abs[4] = 1e-300
    layer[:, 9] = 0
    scales = awq_scales([layer], mean_abs, ratio, SCHEMES["groups"])
    assert bool((scales.isfinite() & (scales > 0)).all())
    assert scales[3] == scales[9] == 1
    everything_dead = awq_scales([layer], torch.zeros(FEATURES), ratio, SCHEMES["groups"])
    assert torch.equal(everything_dead, torch.ones(FEATURES).double())


SHARED_SCALES = {
    "tensor": SCHEMES["tensor"],
    "columns": QuantizationScheme(bits=4, granularity="channel", axis=1),
    "double quantization": preset("nf4-double", group_size=8),
}


@pytest.mark.parametrize("name", [*SCHEMES, *SHARED_SCALES])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_clipping_makes_no_row_worse_nor_rows_that_share_scales(name, seed):
    scheme = {**SCHEMES, **SHARED_SCALES}[name]
    weight = weights(seed, 12)[0] ** 3  # heavy tails
    _, hessian = statistics(inputs(seed))
    clipped = clip_weights(weight, hessian, scheme)
    with_clipping, plain = (
        output_mse(weight, quantize(w, scheme).dequantize(torch.float64), hessian)
        for w in (clipped, weight)
    )
    if name in SHARED_SCALES:
        with_clipping, plain = with_clipping.sum(), plain.sum()
    assert bool((with_clipping <= plain).all())
    assert bool((clipped.abs() <= weight.abs()).all())


def test_clipping_helps_heavy_tails():
    scheme, weight = SCHEMES["channels"], weights(8, 12)[0] ** 3
    _, hessian = statistics(inputs(8))
    clipped = clip_weights(weight, hessian, scheme)
    errors = [
        float(output_mse(weight, quantize(w, scheme).dequantize(torch.float64), hessian).sum())
        for w in (clipped, weight)
    ]
    assert errors[0] < errors[1]


def test_wrong_arguments_are_named():
    mean_abs, hessian = statistics(inputs(9))
    with pytest.raises(ValueError, match="steps is 0"):
        search_awq_scales(weights(9, 3), mean_abs, hessian, SCHEMES["groups"], steps=0)
    with pytest.raises(ValueError, match=r"Hessian has shape \(32, 32\)"):
        search_awq_scales([torch.ones(3, 31)], mean_abs, hessian, SCHEMES["groups"])
