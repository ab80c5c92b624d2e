"""Error bounds: that they hold, of each group and of each element, and that none is too wide."""

import pytest
import torch
from hypothesis import given, settings
from infopt_reference.quantization import (
    Granularity,
    QuantizationScheme,
    number_format,
    preset,
    quantize,
)
from quantization_strategies import (
    FLOAT64_SLACK,
    PLAIN_GRIDS,
    SCALE_DTYPES,
    grids,
    schemes,
    spread,
    weights,
)


@settings(deadline=None, max_examples=300)
@given(weight=weights(), scheme=schemes())
def test_error_is_within_the_bound_of_the_scheme(weight, scheme):
    quantized = quantize(weight, scheme)
    error = (weight.double() - quantized.dequantize(torch.float64)).abs()
    bound = spread(quantized.error_bound(), weight.shape, scheme)
    assert torch.all(error <= bound * FLOAT64_SLACK)


@settings(deadline=None, max_examples=300)
@given(weight=weights(), scheme=schemes())
def test_error_of_each_element_is_within_its_own_bound(weight, scheme):
    quantized = quantize(weight, scheme)
    bound = quantized.element_error_bound(weight)
    assert bound.shape == weight.shape
    assert torch.all((weight.double() - quantized.dequantize(torch.float64)).abs() <= bound)
    assert torch.all(bound <= spread(quantized.error_bound(), weight.shape, scheme))


def levels(scheme):
    """All numbers of a format at scale 1, ascending; of a zero-point grid those around code 1."""
    form = number_format(scheme)
    lowest = -(2 ** (scheme.bits - 1)) + 1 if form.code_dtype is torch.int8 else 0
    codes = torch.arange(lowest, lowest + 2**scheme.bits - (lowest < 0)).to(form.code_dtype)
    zero_point = None if scheme.symmetric else torch.ones(1, 1, dtype=torch.uint8)
    numbers = form.decode(codes[None], torch.ones(1, 1, dtype=torch.float64), zero_point)
    return numbers[numbers.isfinite()].unique()


@pytest.mark.parametrize("grid", PLAIN_GRIDS, ids=str)
def test_midpoints_between_levels_attain_the_bound_of_each_element(grid):
    """No smaller bound holds: half the gap is really lost, whatever way a tie goes."""
    scheme = QuantizationScheme(**grid, scale_dtype=torch.float64)
    numbers = levels(scheme)
    midpoints = (numbers[1:] + numbers[:-1]) / 2
    weight = torch.cat([midpoints, numbers])
    quantized = quantize(weight, scheme)
    assert quantized.scales.item() == 1
    bound = quantized.element_error_bound(weight)[: len(midpoints)]
    error = (weight - quantized.dequantize()).abs()
    assert torch.equal(error[: len(midpoints)], bound)
    assert torch.equal(bound, numbers.diff() / 2)
    assert not error[len(midpoints) :].any()
    assert bound.max() == number_format(scheme).rounding_error


def test_a_bound_belongs_to_the_weight_that_was_quantized():
    quantized = quantize(torch.ones(3, 4), preset("int8"))
    with pytest.raises(ValueError, match=r"shape \(4, 3\); \(3, 4\) was quantized"):
        quantized.element_error_bound(torch.ones(4, 3))


@settings(deadline=None)
@given(weight=weights(), scheme=schemes(grid=grids(codebook=None)))
def test_bound_of_equal_steps_is_half_a_step_and_the_stated_loss_at_the_ends(weight, scheme):
    quantized = quantize(weight, scheme)
    scales = quantized.scales.double()
    expected = scales / 2
    if not scheme.symmetric:
        limits = torch.finfo(scheme.scale_dtype)
        rounded_off = limits.eps * scales.clamp(min=limits.smallest_normal) / 2
        expected = expected + ((2**scheme.bits - 1) * rounded_off).minimum(scales / 2)
    torch.testing.assert_close(quantized.error_bound(), expected, rtol=FLOAT64_SLACK - 1, atol=0)


@pytest.mark.parametrize("dtype", SCALE_DTYPES)
@pytest.mark.parametrize("magnitude", [1e-6, 3e-8, 1e-30, 1e-41, 1.4e-45])
@pytest.mark.parametrize("grid", PLAIN_GRIDS, ids=str)
def test_a_scale_that_underflows_becomes_the_smallest_and_the_bound_holds(grid, magnitude, dtype):
    rows = torch.stack([torch.linspace(-1, 1, 9), torch.linspace(-0.6, 1, 9) * magnitude])
    scheme = QuantizationScheme(**grid, granularity=Granularity.CHANNEL, scale_dtype=dtype)
    quantized = quantize(rows, scheme)
    assert torch.all(quantized.scales > 0)
    error = (rows.double() - quantized.dequantize(torch.float64)).abs()
    assert torch.all(error <= quantized.error_bound()[:, None] * FLOAT64_SLACK)


@pytest.mark.parametrize(("bits", "codebook"), [(4, "nf4"), (8, "e4m3fn"), (8, "e5m2")])
def test_what_double_quantization_cuts_off_small_groups_is_in_the_bound(bits, codebook):
    # A scale that is small beside the others may come out as half of itself, or as 0.
    sizes = torch.cat([torch.linspace(0.01, 0.3, 200), torch.linspace(0.5, 10, 50)])
    weight = sizes[:, None] * torch.tensor([1.0, -0.5, 0.25])
    scheme = QuantizationScheme(
        bits=bits,
        codebook=codebook,
        double_quantization=True,
        granularity=Granularity.GROUP,
        group_size=3,
    )
    quantized = quantize(weight, scheme)
    error = (weight.double() - quantized.dequantize(torch.float64)).abs()
    assert torch.all(error <= quantized.element_error_bound(weight))
    # Clipping dominates somewhere: rounding alone would not explain the error.
    rounding = number_format(scheme).rounding_error * quantized.scales.double()
    assert bool((error > rounding).any())
