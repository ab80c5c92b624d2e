"""GPTQ against an explicit solution that inverts the remaining Hessian anew for every column."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.quantization import NF4, QuantizationScheme, preset, quantize
from infopt_reference.quantization.calibration import HessianStatistics, output_mse
from infopt_reference.quantization.gptq import gptq, inverse_factor

SYMMETRIC = QuantizationScheme(bits=4, granularity="group", group_size=8)
SCHEMES = {
    "symmetric groups": SYMMETRIC,
    "asymmetric groups": QuantizationScheme(
        bits=3, symmetric=False, granularity="group", group_size=8, scale_dtype=torch.float16
    ),
    "nf4 groups": QuantizationScheme(bits=4, granularity="group", group_size=8, codebook="nf4"),
    "channels": QuantizationScheme(bits=4, granularity="channel"),
    "asymmetric channels": QuantizationScheme(bits=4, symmetric=False, granularity="channel"),
    "tensor": QuantizationScheme(bits=4),
}


def problem(seed, rows=6, columns=20, count=60, dead=()):
    """A weight, and H of correlated inputs whose features differ in size."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    mixing = torch.randn(columns, columns, generator=generator)
    sizes = torch.rand(columns, generator=generator) + 0.1
    x = torch.randn(count, columns, generator=generator) @ mixing * sizes
    x[:, list(dead)] = 0
    statistics = HessianStatistics(columns)
    statistics.observe(x)
    return weight, statistics.hessian


def nearest_code(scheme, w, scale, zero_point):
    if scheme.codebook:
        distances = (w[:, None] / scale[:, None] - torch.tensor(NF4.values).double()).abs()
        return distances.argmin(dim=1)
    if scheme.symmetric:
        top = 2 ** (scheme.bits - 1) - 1
        return (w / scale).round().clamp(-top, top)
    return ((w / scale).round() + zero_point).clamp(0, 2**scheme.bits - 1)


def level(scheme, code, scale, zero_point):
    if scheme.codebook:
        return torch.tensor(NF4.values).double()[code] * scale
    return (code - zero_point) * scale


def range_constants(scheme, block):
    """Scale and zero point, float64, of each row."""
    if scheme.codebook:
        return block.abs().amax(1).float().double(), torch.zeros(len(block))
    if scheme.symmetric:
        ideal = block.abs().amax(1) / (2 ** (scheme.bits - 1) - 1)
        return ideal.to(scheme.scale_dtype).double(), torch.zeros(len(block)).double()
    low, high = block.amin(1).clamp(max=0), block.amax(1).clamp(min=0)
    scale = ((high - low) / (2**scheme.bits - 1)).to(scheme.scale_dtype).double()
    return scale, (-low / scale).round()


def explicit_gptq(weight, hessian, scheme, damping=0.01, order=None, static=False):
    """Codes [M, K]: one column after the other, the rest solved for exactly each time."""
    w, original = weight.double().clone(), weight.double()
    columns = w.shape[1]
    order = list(range(columns)) if order is None else order
    h = hessian + damping * hessian.diagonal().mean() * torch.eye(columns).double()
    codes = torch.zeros(weight.shape, dtype=torch.float64)
    size = scheme.group_size or columns
    by_tensor = scheme.granularity == "tensor"
    for position, j in enumerate(order):
        start = j // size * size
        if static or scheme.group_size is None or j == start:
            source = original if static or scheme.group_size is None else w
            block = source[:, start : start + size]
            constants = range_constants(scheme, block.reshape(1, -1) if by_tensor else block)
            scale, zero_point = (c.expand(len(w)) for c in constants)
        code = nearest_code(scheme, w[:, j], scale, zero_point)
        codes[:, j] = code
        rest = order[position:]
        inverse = torch.linalg.inv(h[rest][:, rest])
        error = (w[:, j] - level(scheme, code, scale, zero_point)) / inverse[0, 0]
        w[:, rest] -= error[:, None] * inverse[0]
    return codes


@pytest.mark.parametrize("name", SCHEMES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), columns=st.integers(1, 27), block_size=st.integers(1, 40))
def test_codes_equal_the_explicit_column_by_column_solution(name, seed, columns, block_size):
    weight, hessian = problem(seed, columns=columns)
    codes = gptq(weight, hessian, SCHEMES[name], block_size=block_size).unpacked_codes()
    assert torch.equal(codes.double(), explicit_gptq(weight, hessian, SCHEMES[name]))


@pytest.mark.parametrize("name", SCHEMES)
def test_act_order_equals_the_explicit_solution_in_that_order(name):
    weight, hessian = problem(11)
    order = hessian.diagonal().argsort(descending=True).tolist()
    assert order != sorted(order)
    result = gptq(weight, hessian, SCHEMES[name], act_order=True, block_size=7)
    expected = explicit_gptq(weight, hessian, SCHEMES[name], order=order, static=True)
    assert torch.equal(result.unpacked_codes().double(), expected)
    # Static groups: stored as round-to-nearest is, scale for scale.
    assert torch.equal(result.scales, quantize(weight, SCHEMES[name]).scales)


def test_static_groups_equal_the_explicit_solution():
    weight, hessian = problem(12)
    result = gptq(weight, hessian, SYMMETRIC, static_groups=True, block_size=6)
    expected = explicit_gptq(weight, hessian, SYMMETRIC, static=True)
    assert torch.equal(result.unpacked_codes().double(), expected)
    assert not torch.equal(expected, explicit_gptq(weight, hessian, SYMMETRIC))


@pytest.mark.parametrize("name", ["int8", "int4", "int3", "nf4", "nf4-double", "fp4"])
def test_block_size_changes_nothing_for_any_preset(name):
    weight, hessian = problem(13, rows=16, columns=150, count=400)
    results = [gptq(weight, hessian, preset(name), block_size=size) for size in (1, 48, 128, 1000)]
    for result in results[1:]:
        for key, constant in results[0].constants.items():
            assert torch.equal(result.constants[key], constant), key


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("act_order", [False, True])
def test_uncorrelated_inputs_leave_nothing_to_correct(name, act_order):
    weight, hessian = problem(14)
    diagonal = torch.diag(hessian.diagonal())
    result = gptq(weight, diagonal, SCHEMES[name], act_order=act_order)
    expected = quantize(weight, SCHEMES[name])
    assert torch.equal(result.codes, expected.codes)
    assert torch.equal(result.stored_scales, expected.stored_scales)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), exponent=st.integers(-40, 40))
def test_a_factor_in_the_hessian_cancels(seed, exponent):
    weight, hessian = problem(seed, dead=(3,))
    scaled = gptq(weight, hessian * 2.0**exponent, SYMMETRIC)
    assert torch.equal(scaled.codes, gptq(weight, hessian, SYMMETRIC).codes)


@pytest.mark.parametrize("name", SCHEMES)
def test_output_error_is_below_that_of_round_to_nearest(name):
    scheme = SCHEMES[name]
    weight, hessian = problem(15, rows=64, columns=96, count=2000)
    ours, nearest = (
        output_mse(weight, q.dequantize(torch.float64), hessian).sum()
        for q in (gptq(weight, hessian, scheme), quantize(weight, scheme))
    )
    assert ours < nearest


@pytest.mark.parametrize("name", [*SCHEMES, "nf4-double"])
@given(seed=st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_with_the_fallback_no_row_is_worse_than_round_to_nearest(name, seed):
    scheme = SCHEMES[name] if name in SCHEMES else preset(name, group_size=8)
    weight, hessian = problem(seed, rows=24)
    # Nearly uncorrelated: plain GPTQ is worse on some rows.
    hessian = hessian * 0.05 + torch.diag(hessian.diagonal())
    result = gptq(weight, hessian, scheme, row_fallback=True).dequantize(torch.float64)
    nearest = quantize(weight, scheme).dequantize(torch.float64)
    assert bool((output_mse(weight, result, hessian) <= output_mse(weight, nearest, hessian)).all())


def test_without_the_fallback_some_row_is_worse():
    weight, hessian = problem(16, rows=200)
    hessian = hessian * 0.05 + torch.diag(hessian.diagonal())
    plain = gptq(weight, hessian, SYMMETRIC).dequantize(torch.float64)
    nearest = quantize(weight, SYMMETRIC).dequantize(torch.float64)
    assert bool((output_mse(weight, plain, hessian) > output_mse(weight, nearest, hessian)).any())


@pytest.mark.parametrize("act_order", [False, True])
def test_dead_columns_become_zero_and_do_not_disturb_the_others(act_order):
    scheme, dead = SCHEMES["channels"], (0, 7, 19)
    alive = [j for j in range(20) if j not in dead]
    weight, hessian = problem(17, dead=dead)
    weight[:, 7] = 1e6  # would take the whole range
    result = gptq(weight, hessian, scheme, act_order=act_order)
    others = gptq(weight[:, alive], hessian[alive][:, alive], scheme, act_order=act_order)
    assert not result.dequantize()[:, dead].any()
    assert torch.equal(result.unpacked_codes()[:, alive], others.unpacked_codes())


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_fewer_tokens_than_features_are_enough(damping):
    weight, hessian = problem(18, columns=32, count=5)
    result = gptq(weight, hessian, SYMMETRIC, damping=damping).dequantize(torch.float64)
    nearest = quantize(weight, SYMMETRIC).dequantize(torch.float64)
    assert bool(result.isfinite().all())
    errors = [float(output_mse(weight, q, hessian).sum()) for q in (result, nearest)]
    assert errors[0] < errors[1]


def test_inverse_factor_is_the_upper_root_of_the_inverse():
    _, hessian = problem(19, count=200)
    factor = inverse_factor(hessian, 0.1)
    damped = hessian + 0.1 * hessian.diagonal().mean() * torch.eye(20).double()
    assert torch.equal(factor, factor.triu())
    assert bool((factor.diagonal() > 0).all())
    # Solving with a condition number κ costs κ·n·eps.
    bound = float(torch.linalg.cond(damped)) * 20 * torch.finfo(torch.float64).eps
    error = (factor.T @ factor @ damped - torch.eye(20)).abs().max()
    assert float(error) <= bound


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_and_input_are_kept(dtype):
    weight, hessian = problem(20)
    weight = weight.to(dtype).T.contiguous().T  # not contiguous
    before = weight.clone(), hessian.clone()
    result = gptq(weight, hessian, SYMMETRIC)
    assert result.dequantize().dtype is dtype
    assert torch.equal(weight, before[0])
    assert torch.equal(hessian, before[1])
    assert result.codes.numel() == quantize(weight, SYMMETRIC).codes.numel()


def test_what_cannot_be_quantized_is_named():
    weight, hessian = problem(21)
    with pytest.raises(ValueError, match="not positive definite even with a damping of 1"):
        gptq(weight, hessian - 4 * hessian.diagonal().max() * torch.ones(20, 20), SYMMETRIC)
    with pytest.raises(ValueError, match="the Hessian is 0"):
        gptq(weight, torch.zeros(20, 20), SYMMETRIC)
    with pytest.raises(ValueError, match=r"shape \(19, 19\).*needs one of \(20, 20\)"):
        gptq(weight, hessian[:19, :19], SYMMETRIC)
    with pytest.raises(ValueError, match=r"axis 1; GPTQ needs scales of rows"):
        gptq(weight, hessian, QuantizationScheme(bits=4, granularity="channel", axis=1))
    with pytest.raises(ValueError, match=r"damping is 1\.5"):
        gptq(weight, hessian, SYMMETRIC, damping=1.5)
    with pytest.raises(ValueError, match="block_size is 0"):
        gptq(weight, hessian, SYMMETRIC, block_size=0)
    hessian[2, 3] = float("nan")
    with pytest.raises(ValueError, match=r"hessian\[2, 3\] is nan"):
        gptq(weight, hessian, SYMMETRIC)
