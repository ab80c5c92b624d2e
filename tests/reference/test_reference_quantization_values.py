"""Single values: formulas, ties, ranges on one side, what is refused, and what rounding costs."""

import math

import pytest
import torch
from infopt_reference.quantization import PRESETS, QuantizationScheme, preset, quantize, sqnr_db


@pytest.mark.parametrize(
    ("name", "bits_per_weight"),
    [
        ("int8", 8 + 32 / 1024),
        ("int4", 4 + 16 / 64 + 8 / 64),
        ("int3", 3 + 16 / 64 + 8 / 64),
        ("nf4", 4 + 32 / 64),
        ("nf4-double", 4 + 8 / 64 + 32 / (64 * 256) + 32 / 1024**2),
        ("fp4", 4 + 32 / 64),
        ("fp8", 8 + 32 / 1024),
        ("fp8-e5m2", 8 + 32 / 1024),
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
