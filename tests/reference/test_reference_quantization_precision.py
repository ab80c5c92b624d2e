"""Precision formats against torch.finfo, math.ulp and numpy.spacing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.quantization import (
    E4M3FN,
    E5M2,
    FORMATS,
    SymmetricFormat,
    format_info,
    ulp,
)

FLOATS = [name for name in FORMATS if not name.startswith("int")]
INTEGERS = [name for name in FORMATS if name.startswith("int")]


@pytest.mark.parametrize("name", FLOATS)
def test_a_floating_point_format_is_what_torch_says_of_it(name):
    info, expected = FORMATS[name], torch.finfo(getattr(torch, name))
    assert info.bits == expected.bits
    assert info.largest == expected.max
    assert info.smallest_normal == expected.smallest_normal
    assert info.eps == expected.eps
    # The number that follows 0 is the one with the bit pattern 1.
    integer = {8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}[info.bits]
    first = torch.ones(1, dtype=integer).view(getattr(torch, name)).double().item()
    assert info.smallest_subnormal == first


@pytest.mark.parametrize("name", INTEGERS)
def test_an_integer_format_has_steps_of_one_up_to_the_symmetric_range(name):
    info = FORMATS[name]
    assert name == f"int{info.bits}"
    assert info.largest == SymmetricFormat(info.bits).extent
    assert info.smallest_normal == info.smallest_subnormal == info.eps == 1
    assert ulp(torch.tensor([0.0, -1.5, info.largest]), name).tolist() == [1, 1, 1]


def test_integers_of_two_to_eight_bits_are_listed():
    assert {FORMATS[name].bits for name in INTEGERS} == set(range(2, 9))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_float64_ulp_is_that_of_python(value):
    assert ulp(torch.tensor([value], dtype=torch.float64), "float64").item() == math.ulp(value)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float32_ulp_is_that_of_numpy(value):
    # The spacing above the largest number leads to infinity for numpy, which warns of it.
    with np.errstate(over="ignore"):
        expected = float(np.spacing(np.float32(abs(value))))
    if math.isfinite(expected):
        assert ulp(torch.tensor(value), torch.float32).item() == expected


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_narrow_ulps_are_the_distances_between_neighbouring_bit_patterns(name):
    dtype = getattr(torch, name)
    bits = FORMATS[name].bits
    patterns = torch.arange(2 ** (bits - 1)).to(torch.uint8 if bits == 8 else torch.int16)
    numbers = patterns.view(dtype).double()
    numbers = numbers[numbers.isfinite()]
    spacing = numbers.diff()
    assert torch.equal(ulp(numbers[:-1], dtype), spacing)
    assert torch.equal(ulp(-numbers[:-1], dtype), spacing)
    between = numbers[:-1] + spacing / 4
    assert torch.equal(ulp(between, dtype), spacing)


def test_ulps_keep_the_shape_of_any_layout_and_take_every_dtype():
    values = torch.arange(1.0, 7).view(2, 3).T
    expected = torch.tensor([[1, 2, 2], [4, 4, 4]]).double().T * 2**-10
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert torch.equal(ulp(values.to(dtype), "float16"), expected)
    assert ulp(torch.tensor(1.0), "float16").shape == ()


def test_what_is_not_finite_stays_visible():
    spacing = ulp(torch.tensor([math.inf, math.nan]), "float32")
    assert spacing[0] == math.inf
    assert spacing[1].isnan()


def test_fp8_formats_trade_range_for_precision():
    assert (E4M3FN.extent, E4M3FN.rounding_error) == (448, 16)
    assert (E5M2.extent, E5M2.rounding_error) == (57344, 4096)


def test_formats_are_found_by_name_and_by_dtype():
    assert format_info("bfloat16") is format_info(torch.bfloat16) is FORMATS["bfloat16"]
    assert format_info(torch.int8).largest == 127


@pytest.mark.parametrize("name", ["float9", torch.complex64, "nf4"])
def test_an_unknown_format_names_those_that_exist(name):
    with pytest.raises(ValueError, match=r"no precision format .*; there are: float64, float32"):
        format_info(name)
