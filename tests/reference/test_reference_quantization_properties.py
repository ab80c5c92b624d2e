"""Laws of every number format at every granularity, checked in float64.

dequantize(torch.float64) multiplies a code of at most 8 bits (a level of 24) exactly with a scale
of 24 bits, so the laws hold without tolerance, but for the roundings that a test names.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from infopt_reference.quantization import (
    Granularity,
    QuantizationScheme,
    grouping,
    number_format,
    quantize,
    unpack,
)
from infopt_reference.quantization.grouping import from_rows, scale_shape, to_rows
from quantization_strategies import ANY_GRID, GRIDS, PLACES, PLAIN_GRIDS, grids, schemes, weights


@settings(deadline=None)
@given(
    weight=weights(largest=2.0**10), scheme=schemes(), dtype=st.sampled_from([None, torch.float32])
)
def test_shape_dtype_and_input_are_kept_and_the_result_is_finite(weight, scheme, dtype):
    before = weight.clone()
    quantized = quantize(weight, scheme)
    restored = quantized.dequantize(dtype)
    assert torch.equal(weight, before)
    assert restored.shape == weight.shape
    assert restored.dtype == (dtype or weight.dtype)
    assert torch.isfinite(restored).all()
    assert quantized.scales.shape == scale_shape(weight.shape, scheme)


@settings(deadline=None)
@given(weight=weights(), scheme=schemes())
def test_zero_decodes_to_exactly_zero(weight, scheme):
    restored = quantize(weight, scheme).dequantize()
    assert torch.all(restored[weight == 0] == 0)
    assert not quantize(torch.zeros_like(weight), scheme).dequantize().any()


@pytest.mark.parametrize("grid", PLAIN_GRIDS, ids=str)
def test_a_group_of_zeros_has_scale_zero_and_the_codes_of_zero(grid):
    # 0/0 cast to an integer is undefined; a scale of 0 would hide whatever code came out.
    weight = torch.stack([torch.zeros(5), torch.arange(5.0)])
    scheme = QuantizationScheme(**grid, granularity=Granularity.CHANNEL)
    quantized = quantize(weight, scheme)
    assert quantized.scales[0] == 0
    zero_points = None if quantized.zero_points is None else quantized.zero_points[:1, None]
    codes = quantized.unpacked_codes()[:1]
    assert not number_format(scheme).decode(codes, torch.ones(1, 1), zero_points).any()


@settings(deadline=None)
@given(weight=weights(), scheme=schemes())
def test_order_within_a_group_is_kept(weight, scheme):
    rows = to_rows(weight.double(), scheme)
    restored = to_rows(quantize(weight, scheme).dequantize(torch.float64), scheme)
    restored = restored.gather(1, rows.argsort(dim=1))
    assert torch.all(restored.diff(dim=1) >= 0)


@settings(deadline=None)
@given(weight=weights(dtype=torch.float32), scheme=schemes(grid=grids(double_quantization=False)))
def test_quantizing_twice_changes_no_code(weight, scheme):
    # Where scales have run out of precision, a second pass may find a finer one.
    scheme = replace(scheme, scale_dtype=torch.float32)
    once = quantize(weight, scheme)
    scales = once.scales
    assume(bool(((scales == 0) | (scales > torch.finfo(torch.float32).smallest_normal)).all()))
    if not scheme.symmetric:
        # Ties at both ends may leave the last code of a range unused: the next range is smaller.
        last = to_rows(once.unpacked_codes(), scheme).amax(dim=1) == 2**scheme.bits - 1
        assume(bool((last | (to_rows(weight, scheme).amax(dim=1) <= 0)).all()))
    twice = quantize(once.dequantize(), scheme)
    assert torch.equal(twice.unpacked_codes(), once.unpacked_codes())
    # Scale · extent and its division by the extent round once each, in the range of two ends.
    eps = torch.finfo(torch.float32).eps
    torch.testing.assert_close(twice.scales, scales, rtol=2 * eps, atol=0)


@settings(deadline=None)
@given(weight=weights(), scheme=schemes(grid=grids(symmetric=True, codebook=None)))
def test_symmetric_grid_commutes_with_negation(weight, scheme):
    negated = quantize(-weight, scheme).dequantize(torch.float64)
    assert torch.equal(negated, -quantize(weight, scheme).dequantize(torch.float64))


@settings(deadline=None)
@given(
    weight=weights(dtype=torch.float32),
    scheme=schemes(grid=grids(double_quantization=False)),
    exponent=st.integers(-3, 3),
)
def test_powers_of_two_pass_through(weight, scheme, exponent):
    # Only where the stored scales stay normal: subnormals round differently.
    scales = quantize(weight, scheme).scales.double()
    smallest = torch.finfo(scheme.scale_dtype).smallest_normal * 2.0**4
    assume(bool(((scales == 0) | (scales >= smallest)).all()))
    plain, scaled = quantize(weight, scheme), quantize(weight * 2.0**exponent, scheme)
    assert torch.equal(scaled.codes, plain.codes)
    assert torch.equal(scaled.scales.double(), plain.scales.double() * 2.0**exponent)


@settings(deadline=None)
@given(data=st.data(), weight=weights(rank=2), grid=grids(double_quantization=False))
def test_channels_do_not_influence_each_other(data, weight, grid):
    # Both axes, square matrices among them: a mix-up of axes hides where sizes are equal.
    axis = data.draw(st.sampled_from([0, 1, -1, -2]))
    scheme = QuantizationScheme(**grid, granularity=Granularity.CHANNEL, axis=axis)
    channel = data.draw(st.integers(0, weight.shape[axis] - 1))
    changed = weight.double()
    changed.select(axis, channel).mul_(1000)
    others = [i for i in range(weight.shape[axis]) if i != channel]
    index = torch.tensor(others, dtype=torch.long)
    before = quantize(weight.double(), scheme).dequantize()
    after = quantize(changed, scheme).dequantize()
    assert torch.equal(before.index_select(axis, index), after.index_select(axis, index))


@settings(deadline=None)
@given(
    weight=weights(rank=2),
    scheme=schemes(grid=grids(double_quantization=False), places=st.sampled_from(PLACES[3:])),
)
def test_each_group_equals_itself_alone_the_short_tail_included(weight, scheme):
    whole = quantize(weight, scheme).dequantize(torch.float64)
    alone = QuantizationScheme(
        bits=scheme.bits,
        symmetric=scheme.symmetric,
        codebook=scheme.codebook,
        scale_dtype=scheme.scale_dtype,
    )
    for row, start in itertools.product(
        range(weight.shape[0]), range(0, weight.shape[1], scheme.group_size)
    ):
        part = slice(start, start + scheme.group_size)
        expected = quantize(weight[row, part], alone).dequantize(torch.float64)
        assert torch.equal(whole[row, part], expected)


@settings(deadline=None)
@given(data=st.data(), weight=weights(), grid=ANY_GRID)
def test_channel_of_any_axis_is_that_of_the_transposed_weight(data, weight, grid):
    axis = data.draw(st.integers(-weight.ndim, weight.ndim - 1))
    scheme = QuantizationScheme(**grid, granularity=Granularity.CHANNEL, axis=axis)
    moved = quantize(weight.movedim(axis, 0), replace(scheme, axis=0)).dequantize()
    assert torch.equal(quantize(weight, scheme).dequantize(), moved.movedim(0, axis))


@settings(deadline=None)
@given(weight=weights(), scheme=schemes())
def test_rows_go_back_to_where_they_came_from(weight, scheme):
    assert torch.equal(from_rows(to_rows(weight, scheme), weight.shape, scheme), weight)


@settings(deadline=None)
@given(weight=weights(), scheme=schemes(), size=st.integers(1, 20))
def test_blocks_that_stay_in_cache_change_no_result(weight, scheme, size):
    whole = quantize(weight, scheme)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "CACHED_ELEMENTS", size)
        blocks = quantize(weight, scheme)
        restored = blocks.dequantize()
    assert torch.equal(blocks.codes, whole.codes)
    assert torch.equal(restored, whole.dequantize())


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_matrices_beyond_one_block_are_covered_to_the_last_element(place):
    weight = torch.randn(3, 2 * grouping.CACHED_ELEMENTS + 5)
    scheme = QuantizationScheme(bits=8, **place)
    quantized = quantize(weight, scheme)
    error = (weight.double() - quantized.dequantize(torch.float64)).abs()
    assert torch.all(error <= quantized.element_error_bound(weight))


@settings(deadline=None)
@given(weight=weights(), scheme=schemes())
def test_bytes_are_those_of_codes_scales_and_zero_points(weight, scheme):
    quantized = quantize(weight, scheme)
    groups = scale_shape(weight.shape, scheme).numel()
    bits = scheme.bits if scheme.packed else 8
    expected = (weight.numel() * bits + 7) // 8
    if scheme.double_quantization:
        expected += groups + 4 * -(-groups // 256) + 4
    else:
        expected += groups * scheme.scale_dtype.itemsize
    if not scheme.symmetric:
        expected += groups
    assert quantized.nbytes == expected
    assert sum(t.nbytes for t in quantized.constants.values()) == expected


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_storage_changes_no_value(grid, packed):
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(5, 13, generator=generator)
    place = {"granularity": Granularity.GROUP, "group_size": 4}
    stored = quantize(weight, QuantizationScheme(**grid, **place, packed=packed))
    codes = unpack(
        stored.codes,
        stored.scheme.bits if packed else 8,
        weight.numel(),
        number_format(stored.scheme).code_dtype,
    )
    assert torch.equal(codes.view(weight.shape), stored.unpacked_codes())
    other = quantize(weight, QuantizationScheme(**grid, **place, packed=not packed))
    assert torch.equal(stored.dequantize(), other.dequantize())
