"""FP8 against torch's own casts: all 256 codes, all float16 numbers, every midpoint."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.quantization import (
    E4M3FN,
    E5M2,
    Float8Format,
    FormatInfo,
    QuantizedLinear,
    decode_float8,
    encode_float8,
    preset,
    quantize,
)

TORCH_DTYPES = {E4M3FN: torch.float8_e4m3fn, E5M2: torch.float8_e5m2}
FORMATS = pytest.mark.parametrize("form", TORCH_DTYPES, ids=lambda form: form.name)
CODES = torch.arange(256).to(torch.uint8)


def torch_cast(values, form):
    """Bit patterns of torch's cast, which rounds like ours and is made to saturate here."""
    return values.clamp(-form.extent, form.extent).to(TORCH_DTYPES[form]).view(torch.uint8)


def finite_numbers(form):
    numbers = CODES.view(TORCH_DTYPES[form]).double()
    return numbers[numbers.isfinite()].unique()


@FORMATS
def test_all_codes_decode_to_the_numbers_of_torch(form):
    expected = CODES.view(TORCH_DTYPES[form]).float()
    numbers = decode_float8(CODES, form)
    torch.testing.assert_close(numbers, expected, rtol=0, atol=0, equal_nan=True)
    zeros = numbers == 0
    assert CODES[zeros].tolist() == [0, 128]
    assert numbers[zeros].signbit().tolist() == [False, True]


@FORMATS
def test_codes_of_finite_numbers_survive_the_way_there_and_back(form):
    numbers = decode_float8(CODES, form)
    finite = numbers.isfinite()
    assert torch.equal(encode_float8(numbers[finite], form), CODES[finite])


@FORMATS
def test_all_float16_numbers_are_cast_as_torch_does(form):
    patterns = torch.arange(-(2**15), 2**15).to(torch.int16)
    values = patterns.view(torch.float16)
    values = values[values.isfinite()]
    assert torch.equal(encode_float8(values, form), torch_cast(values.float(), form))


@FORMATS
def test_midpoints_go_to_the_even_code_and_their_neighbours_to_the_nearer(form):
    numbers = finite_numbers(form)
    midpoints = (numbers[1:] + numbers[:-1]) / 2
    codes = encode_float8(midpoints, form)
    assert torch.all(codes % 2 == 0)
    tiny = numbers.diff() * 2.0**-40
    for values, nearest in ((midpoints - tiny, numbers[:-1]), (midpoints + tiny, numbers[1:])):
        assert torch.equal(decode_float8(encode_float8(values, form), form).double(), nearest)


@FORMATS
@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_any_float32_number_is_cast_as_torch_does(form, value):
    values = torch.tensor([value])
    assert torch.equal(encode_float8(values, form), torch_cast(values, form))


@FORMATS
@given(value=st.floats(-1e5, 1e5))
def test_float64_numbers_go_to_the_nearest_number_without_a_detour(form, value):
    # By way of float32 a number just beside a midpoint would be rounded twice.
    numbers = finite_numbers(form)
    exact = torch.tensor([value], dtype=torch.float64)
    chosen = decode_float8(encode_float8(exact, form), form).double()
    assert (chosen - exact).abs() == (numbers - exact).abs().min()


@FORMATS
def test_what_is_too_large_becomes_the_largest_number(form):
    values = form.extent * torch.tensor([1.001, 1.03, 1.2, 2, 1e6, 1e30], dtype=torch.float64)
    assert torch.all(decode_float8(encode_float8(values, form), form) == form.extent)
    assert torch.all(decode_float8(encode_float8(-values, form), form) == -form.extent)


def test_the_top_binade_of_e4m3fn_is_used():
    # IEEE rules would end at 240 and leave the exponent of 256…448 to infinity and NaN.
    values = torch.arange(256.0, 449, 32)
    assert torch.equal(decode_float8(encode_float8(values, E4M3FN), E4M3FN), values)


@FORMATS
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_has_no_finite_code_is_refused(form, bad):
    with pytest.raises(ValueError, match=rf"values\[1\] is {bad}"):
        encode_float8(torch.tensor([0.0, bad]), form)


def test_only_bit_patterns_are_decoded():
    with pytest.raises(ValueError, match=r"codes are torch\.int64"):
        decode_float8(torch.arange(3), E5M2)


@FORMATS
def test_any_shape_and_layout_is_cast(form):
    values = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0)).transpose(0, 2)
    codes = encode_float8(values, form)
    assert torch.equal(codes, torch_cast(values, form))
    assert decode_float8(codes, form).shape == values.shape


def test_another_format_is_one_more_line():
    """FNUZ is not covered, an ordinary E3M4 is: the arithmetic follows from the two widths."""
    e3m4 = Float8Format("e3m4", FormatInfo("float8_e3m4", 3, 4))
    assert e3m4.extent == 15.5
    assert decode_float8(torch.tensor([1, 0x6F], dtype=torch.uint8), e3m4).tolist() == [2**-6, 15.5]
    numbers = decode_float8(CODES, e3m4)
    finite = numbers.isfinite()
    assert torch.equal(encode_float8(numbers[finite], e3m4), CODES[finite])


@pytest.mark.parametrize(("name", "form"), [("fp8", E4M3FN), ("fp8-e5m2", E5M2)])
def test_a_quantized_weight_is_the_cast_of_the_scaled_rows(name, form):
    weight = torch.randn(16, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    quantized = quantize(weight, preset(name, scale_dtype=torch.float64))
    scales = weight.abs().amax(dim=1) / form.extent
    assert torch.equal(quantized.scales, scales)
    scaled = weight / scales[:, None]
    assert torch.equal(quantized.unpacked_codes(), encode_float8(scaled, form))
    expected = decode_float8(quantized.unpacked_codes(), form).double() * scales[:, None]
    assert torch.equal(quantized.dequantize(), expected)


@pytest.mark.parametrize("name", ["fp8", "fp8-e5m2"])
def test_the_error_is_in_proportion_to_the_weight(name):
    """|w|/2^(M+1) above the subnormals; equal steps would lose half of theirs on small weights."""
    form = {"fp8": E4M3FN, "fp8-e5m2": E5M2}[name]
    weight = 2.0 ** torch.linspace(-12, 0, 400, dtype=torch.float64)
    weight[-1] = 1.0
    quantized = quantize(weight[None], preset(name))
    error = (quantized.dequantize(torch.float64)[0] - weight).abs()
    normal = weight >= form.info.smallest_normal * quantized.scales.item()
    assert normal.sum() > 300
    relative = (error / weight)[normal]
    assert relative.max() <= form.info.eps / 2
    assert relative.max() > form.info.eps / 2 * 0.8


@pytest.mark.parametrize("name", ["fp8", "fp8-e5m2"])
def test_scales_survive_saving_and_loading(name, tmp_path):
    """Weights far from ±448: without their scales they would be wrong by orders of magnitude."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(20, 6)
    with torch.no_grad():
        linear.weight *= 1e-3
    layer = QuantizedLinear.from_linear(linear, preset(name))
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = QuantizedLinear.from_linear(torch.nn.Linear(20, 6), preset(name))
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    weight = other.quantized_weight
    assert torch.equal(weight.scales, layer.quantized_weight.scales)
    restored = weight.dequantize(torch.float64)
    bound = weight.element_error_bound(linear.weight)
    assert torch.all((restored - linear.weight.double()).abs() <= bound)
