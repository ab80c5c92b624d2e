"""Laws of every number format at every granularity, checked in float64.

dequantize(torch.float64) multiplies a code of at most 8 bits (a level of 24) exactly with a scale
of 24 bits, so the laws hold without tolerance, but for the roundings that a test names.
"""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from infopt_reference.quantization import (
    PRESETS,
    Granularity,
    QuantizationScheme,
    max_error,
    mse,
    number_format,
    preset,
    quantize,
    sqnr_db,
    unpack,
)
from infopt_reference.quantization.grouping import from_rows, scale_shape, to_rows

GRIDS = [
    *(
        {"bits": bits, "symmetric": symmetric}
        for bits in range(2, 9)
        for symmetric in (True, False)
    ),
    *({"bits": 4, "codebook": name} for name in ("nf4", "fp4")),
    {"bits": 4, "codebook": "nf4", "double_quantization": True},
]
PLACES = [
    {"granularity": Granularity.TENSOR},
    {"granularity": Granularity.CHANNEL, "axis": 0},
    {"granularity": Granularity.CHANNEL, "axis": -1},
    *({"granularity": Granularity.GROUP, "group_size": size} for size in (1, 3, 4, 64)),
]
SCALE_DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FLOAT64_SLACK = 1 + 2**-40  # roundings of the float64 arithmetic in the tests themselves


def grids(**only):
    """Grids whose fields agree with ``only``; a missing field counts as its default."""
    default = {"symmetric": True, "codebook": None, "double_quantization": False}
    return st.sampled_from([g for g in GRIDS if only.items() <= (default | g).items()])


ANY_GRID, ANY_PLACE = st.sampled_from(GRIDS), st.sampled_from(PLACES)


@st.composite
def schemes(draw, grid=ANY_GRID, places=ANY_PLACE):
    grid = draw(grid)
    dtypes = SCALE_DTYPES[:1] if grid.get("double_quantization") else SCALE_DTYPES
    return QuantizationScheme(
        **grid,
        **draw(places),
        scale_dtype=draw(st.sampled_from(dtypes)),
        packed=draw(st.booleans()),
    )


def numbers(dtype, largest):
    # bfloat16 is a subset of float32: cast.
    width = {torch.float16: 16, torch.bfloat16: 32, torch.float32: 32, torch.float64: 64}[dtype]
    # Only float64 reaches below 1e-100, and below 1e-300 the bound is not promised.
    return st.floats(-largest, largest, width=width).map(lambda x: x if abs(x) > 1e-100 else 0.0)


@st.composite
def weights(draw, dtype=None, largest=2.0**10, rank=None):
    """Tensors of rank 1…3, sizes that divide nothing, all kinds of values, some groups of zeros."""
    dtype = dtype or draw(
        st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])
    )
    rank = rank or draw(st.integers(1, 3))
    shape = [draw(st.integers(1, 5)) for _ in range(rank - 1)] + [draw(st.integers(1, 11))]
    count = math.prod(shape)
    kind = draw(st.sampled_from(["any", "positive", "negative", "constant", "tiny"]))
    values = draw(st.lists(numbers(dtype, largest), min_size=count, max_size=count))
    tensor = torch.tensor(values, dtype=torch.float64).to(dtype).view(shape)
    if kind == "positive":
        tensor = tensor.abs()
    elif kind == "negative":
        tensor = -tensor.abs()
    elif kind == "constant":
        tensor = torch.full_like(tensor, values[0])
    elif kind == "tiny":
        tensor = tensor * 2.0**-30
    if draw(st.booleans()):
        tensor[0] = 0
    return tensor


def spread(per_group, shape, scheme):
    """Numbers of the groups, one for each weight, without the code under test's broadcasting."""
    result = torch.empty(shape, dtype=torch.float64)
    for index in itertools.product(*map(range, shape)):
        if scheme.granularity is Granularity.TENSOR:
            result[index] = per_group
        elif scheme.granularity is Granularity.CHANNEL:
            result[index] = per_group[index[scheme.axis]]
        else:
            result[index] = per_group[(*index[:-1], index[-1] // scheme.group_size)]
    return result


@settings(deadline=None, max_examples=300)
@given(weight=weights(), scheme=schemes())
def test_error_is_within_the_bound_of_the_scheme(weight, scheme):
    quantized = quantize(weight, scheme)
    error = (weight.double() - quantized.dequantize(torch.float64)).abs()
    bound = spread(quantized.error_bound(), weight.shape, scheme)
    assert torch.all(error <= bound * FLOAT64_SLACK)


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


@pytest.mark.parametrize("grid", GRIDS[:-1], ids=str)
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


@pytest.mark.parametrize(
    ("name", "bits_per_weight"),
    [
        ("int8", 8 + 32 / 1024),
        ("int4", 4 + 16 / 64 + 8 / 64),
        ("int3", 3 + 16 / 64 + 8 / 64),
        ("nf4", 4 + 32 / 64),
        ("nf4-double", 4 + 8 / 64 + 32 / (64 * 256) + 32 / 1024**2),
        ("fp4", 4 + 32 / 64),
    ],
)
def test_presets_cost_the_bits_of_their_formulas(name, bits_per_weight):
    generator = torch.Generator().manual_seed(0)
    quantized = quantize(torch.randn(1024, 1024, generator=generator), PRESETS[name])
    assert 8 * quantized.nbytes / 1024**2 == bits_per_weight


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_formulas_of_the_definition(bits, symmetric):
    """An independent transcription in Python floats and integers; round() is half to even."""
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(50, generator=generator)
    # float64 scales: nothing is rounded between the formula and the codes.
    scheme = QuantizationScheme(bits=bits, symmetric=symmetric, scale_dtype=torch.float64)
    quantized = quantize(weight, scheme)
    values = weight.double().tolist()
    if symmetric:
        qmax = 2 ** (bits - 1) - 1
        scale = max(map(abs, values)) / qmax
        codes = [min(max(round(v / scale), -qmax), qmax) for v in values]
    else:
        low, high = min(0.0, *values), max(0.0, *values)
        scale = (high - low) / (2**bits - 1)
        zero_point = round(-low / scale)
        codes = [min(max(round(v / scale) + zero_point, 0), 2**bits - 1) for v in values]
        assert quantized.zero_points.item() == zero_point
    assert quantized.scales.item() == scale
    assert quantized.unpacked_codes().tolist() == codes


def test_ties_go_to_the_even_code():
    weight = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5])  # scale 1
    codes = quantize(weight, QuantizationScheme(bits=8)).unpacked_codes()
    assert codes.tolist() == [127, 0, 2, 2, 0, -2, -2]


@pytest.mark.parametrize(
    "values", [[15.0, 22.0, 18.0], [-22.0, -15.0, -16.0], [1.0, 2.0], [7.0, 7.0]]
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_one_sided_ranges_keep_their_largest_weight(values, symmetric):
    weight = torch.tensor(values)
    quantized = quantize(weight, QuantizationScheme(bits=4, symmetric=symmetric))
    error = (weight - quantized.dequantize()).abs().double()
    assert torch.all(error <= quantized.error_bound() + torch.finfo(torch.float32).eps * 22)
    assert (len(set(quantized.unpacked_codes().tolist())) > 1) == (len(set(values)) > 1)
    largest = weight.abs().argmax()
    torch.testing.assert_close(quantized.dequantize()[largest], weight[largest])


@pytest.mark.parametrize("multiple", range(1, 255, 7))
def test_zero_points_are_rounded_not_cut(multiple):
    # −lo/scale lies a rounding error below an integer for most of these ranges.
    weight = torch.tensor([-0.1 * multiple, 0.0, 0.1 * (255 - multiple)])
    quantized = quantize(weight, QuantizationScheme(bits=8, symmetric=False))
    assert quantized.zero_points.item() == multiple
    assert quantized.unpacked_codes().tolist() == [0, multiple, 255]


@pytest.mark.parametrize("dtype", SCALE_DTYPES)
@pytest.mark.parametrize("magnitude", [1e-6, 3e-8, 1e-30, 1e-41, 1.4e-45])
@pytest.mark.parametrize("grid", GRIDS[:-1], ids=str)
def test_a_scale_that_underflows_becomes_the_smallest_and_the_bound_holds(grid, magnitude, dtype):
    rows = torch.stack([torch.linspace(-1, 1, 9), torch.linspace(-0.6, 1, 9) * magnitude])
    scheme = QuantizationScheme(**grid, granularity=Granularity.CHANNEL, scale_dtype=dtype)
    quantized = quantize(rows, scheme)
    assert torch.all(quantized.scales > 0)
    error = (rows.double() - quantized.dequantize(torch.float64)).abs()
    assert torch.all(error <= quantized.error_bound()[:, None] * FLOAT64_SLACK)


def test_a_zero_point_never_leaves_its_byte():
    # The scale is rounded down by just so much that −lo/scale is 255.5, which rounds to 256.
    weight = torch.tensor([-255.5, 0.0]) * 2.0**-24
    scheme = QuantizationScheme(bits=8, symmetric=False, scale_dtype=torch.float16)
    quantized = quantize(weight, scheme)
    assert quantized.scales.item() == 2.0**-24
    assert quantized.zero_points.item() == 255
    assert quantized.dequantize().tolist() == [-255 * 2.0**-24, 0]


def test_a_tiny_row_beside_large_ones_keeps_its_relative_precision():
    rows = torch.stack([torch.linspace(-1, 1, 9), torch.linspace(-1, 1, 9) * 1e-6]).half()
    restored = quantize(rows, PRESETS["int8"]).dequantize(torch.float64)
    error = (rows.double() - restored).abs().amax(dim=1) / rows.double().abs().amax(dim=1)
    assert torch.all(error <= 1 / (2 * 127) + torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named(bad):
    weight = torch.zeros(3, 4)
    weight[1, 2] = weight[2, 3] = bad
    with pytest.raises(ValueError, match=rf"weight\[1, 2\] is {bad} \(2 of 12 values"):
        quantize(weight, PRESETS["int8"])


@pytest.mark.parametrize(
    ("weight", "scheme", "message"),
    [
        (torch.zeros(3, dtype=torch.int32), PRESETS["int8"], "dtype is torch.int32"),
        (torch.zeros(3, 0), PRESETS["int8"], r"empty, shape \(3, 0\)"),
        (torch.ones(()), PRESETS["int4"], "groups lie along the last axis"),
        (
            torch.ones(3),
            preset("int8", axis=1),
            r"axis 1 does not exist in weights of shape \(3,\)",
        ),
        (torch.ones(3), preset("int8", axis=-2), "axis -2 does not exist"),
        (
            torch.full((2, 2), 1e8),
            preset("int8", scale_dtype=torch.float16),
            "exceeds torch.float16's largest number",
        ),
        (
            torch.tensor([65504.0, -30000.0], dtype=torch.float16),
            QuantizationScheme(bits=3, symmetric=False),
            "beyond torch.float16's largest number 65504",
        ),
    ],
)
def test_what_cannot_be_quantized_is_refused(weight, scheme, message):
    with pytest.raises(ValueError, match=message):
        quantize(weight, scheme)


def test_scalars_and_parameters_are_quantized():
    assert quantize(torch.tensor(3.0), QuantizationScheme(bits=4)).dequantize().item() == 3
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    assert not quantize(parameter, PRESETS["int8"]).dequantize().requires_grad


@pytest.mark.parametrize("name", ["int8", "int4", "int3"])
def test_rounding_has_no_bias(name):
    """No truncation: codes cut off towards 0 or −∞ would be half a step off on average.

    Uniform weights, so that no cell is fuller on one side, and none of the end cells, which the
    range halves. The mean error of 10^5 weights is 0 ± 0.003 standard deviations; 0.05 are 15
    standard errors, half a step is 1.7 deviations. Within the cell of 0 "towards 0" says nothing.
    """
    generator = torch.Generator().manual_seed(7)
    weight = 2 * torch.rand(256, 512, generator=generator) - 1
    quantized = quantize(weight, PRESETS[name])
    codes, restored = quantized.unpacked_codes(), quantized.dequantize(torch.float64)
    inner = (codes > codes.min()) & (codes < codes.max())
    error = (restored - weight)[inner]
    for signed in (error, error * restored[inner].sign()):
        assert signed.mean().abs() < 0.05 * error.std()


@pytest.mark.parametrize("bits", [3, 4])
def test_zero_points_pay_for_normal_weights_in_groups_of_64(bits):
    """Why int4 and int3 are asymmetric: the gain in SQNR which the presets' comment states."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(512, 1024, generator=generator)
    scheme = preset("int4", bits=bits)
    symmetric = quantize(weight, preset("int4", bits=bits, symmetric=True)).dequantize()
    gain = sqnr_db(weight, quantize(weight, scheme).dequantize()) - sqnr_db(weight, symmetric)
    # The step shrinks from 2·E[max|w|]/(2^b − 2) to E[range]/(2^b − 1).
    groups = weight.view(-1, 64)
    step = (groups.amax(1) - groups.amin(1)).mean() / (2**bits - 1)
    step_symmetric = 2 * groups.abs().amax(1).mean() / (2**bits - 2)
    assert gain == pytest.approx(20 * math.log10(step_symmetric / step), abs=0.2)
    assert gain > {4: 1, 3: 1.5}[bits]


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


def test_metrics_are_their_formulas():
    reference = torch.tensor([3.0, -4.0, 0.0, 0.0])
    candidate = torch.tensor([3.0, -3.0, 0.5, 0.0])
    assert mse(reference, candidate) == 1.25 / 4
    assert max_error(reference, candidate) == 1
    assert sqnr_db(reference, candidate) == pytest.approx(10 * math.log10(25 / 1.25))
    assert sqnr_db(reference, reference) == math.inf
    assert sqnr_db(torch.zeros(2), torch.ones(2)) == -math.inf
    assert mse(torch.tensor([6e4]).half(), torch.tensor([-6e4]).half()) > 1e9  # float16 overflows


@pytest.mark.parametrize("metric", [mse, max_error, sqnr_db])
def test_metrics_refuse_what_a_comparison_would_swallow(metric):
    with pytest.raises(ValueError, match="shapes are"):
        metric(torch.zeros(2), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="shapes are"):
        metric(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match=r"candidate\[1\] is nan"):
        metric(torch.zeros(2), torch.tensor([0, math.nan]))
