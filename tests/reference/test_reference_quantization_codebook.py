"""Code books against their definition, an exhaustive grid, and bitsandbytes."""

import bitsandbytes.functional as oracle
import pytest
import torch
from infopt_reference.quantization import CODEBOOKS, FP4, NF4, CodeBook, preset, quantize
from scipy.stats import norm


@pytest.fixture(autouse=True)
def eager():
    """bitsandbytes compiles some of its CPU routines, which takes longer than all tests here."""
    with torch.compiler.set_stance("force_eager"):
        yield


FLOAT32_EPS = torch.finfo(torch.float32).eps


def test_nf4_is_the_quantiles_of_a_normal_distribution():
    """QLoRA, appendix E: 2^3 + 1 quantiles above 0 and 2^3 below, 0 shared, scaled to ±1."""
    offset = (1 - 1 / 30 + 1 - 1 / 32) / 2
    positive = norm.ppf([offset + (0.5 - offset) * i / 8 for i in range(8)])
    negative = -norm.ppf([offset + (0.5 - offset) * i / 7 for i in range(7)])
    levels = sorted([*negative / positive[0], 0.0, *positive / positive[0]])
    # Published from quantile levels in float32: off by up to eps, times the slope of the quantile
    # function (1/pdf ≤ 14 at the offset), and normalised by a number above 1.8.
    assert list(NF4.values) == pytest.approx(levels, abs=14 * FLOAT32_EPS)


@pytest.mark.parametrize("book", CODEBOOKS.values(), ids=CODEBOOKS)
def test_levels_are_those_of_bitsandbytes_to_the_bit(book):
    expected = oracle.get_4bit_type(book.name, device="cpu")
    assert torch.equal(torch.tensor(book.values, dtype=torch.float32), expected)


def test_fp4_is_a_sign_two_exponent_bits_and_one_mantissa_bit():
    assert {12 * abs(value) for value in FP4.values} == {0, 0.0625, 2, 3, 4, 6, 8, 12}
    for value, mirrored in zip(FP4.values[:8], FP4.values[8:], strict=True):
        assert value == -mirrored


@pytest.mark.parametrize("book", CODEBOOKS.values(), ids=CODEBOOKS)
def test_each_number_gets_its_nearest_level_and_ties_the_lower(book):
    levels = torch.tensor(sorted(set(book.values)), dtype=torch.float32).double()
    grid = torch.cat([torch.linspace(-1, 1, 4001).double(), levels, (levels[1:] + levels[:-1]) / 2])
    ones = torch.ones(1, 1, dtype=torch.float64)
    decoded = book.decode(book.encode(grid[None], ones, None), ones, None)[0]
    distance = (grid[:, None] - levels).abs()
    # argmin takes the first of equal distances, and the levels ascend.
    assert torch.equal(decoded, levels[distance.argmin(dim=1)])
    assert set(decoded.tolist()) == set(levels.tolist())


@pytest.mark.parametrize("block", [32, 64, 128, 256, 512, 1024, 2048, 4096])
@pytest.mark.parametrize("name", CODEBOOKS)
def test_quantized_weights_are_those_of_bitsandbytes(name, block):
    weight = torch.randn(3, 4096, generator=torch.Generator().manual_seed(block))
    weight[1] *= 1e-3
    weight[2, :block] = 0
    ours = quantize(weight, preset(name, group_size=block))
    packed, state = oracle.quantize_4bit(weight, blocksize=block, quant_type=name)
    assert torch.equal(ours.scales.flatten(), state.absmax)
    # bitsandbytes multiplies by 1/absmax in float32: two roundings, that may carry a weight over a
    # midpoint which it nearly hits.
    normalised = (weight.view(-1, block) / ours.scales.view(-1, 1).clamp(min=1e-30)).view(-1, 1)
    levels = torch.tensor(sorted(set(CODEBOOKS[name].values)))
    near_tie = ((normalised - (levels[1:] + levels[:-1]) / 2).abs() <= 2 * FLOAT32_EPS).any(dim=1)
    assert near_tie.sum() <= 2
    theirs = oracle.dequantize_4bit(packed, state, blocksize=block, quant_type=name)
    differs = (ours.dequantize() != theirs).flatten()
    assert not (differs & ~near_tie).any()


@pytest.mark.parametrize("name", CODEBOOKS)
@pytest.mark.parametrize("count", [1, 63, 65, 130])
def test_a_short_last_block_is_that_of_bitsandbytes(name, count):
    weight = torch.linspace(-1, 0.9, count) ** 3 + 0.01
    packed, state = oracle.quantize_4bit(weight, blocksize=64, quant_type=name)
    theirs = oracle.dequantize_4bit(packed, state, blocksize=64, quant_type=name).flatten()
    ours = quantize(weight, preset(name)).dequantize()
    torch.testing.assert_close(ours, theirs[:count], rtol=FLOAT32_EPS, atol=0)


def test_double_quantization_costs_little_error():
    """A scale is off by at most step/2, and step is a 127th of the spread of the scales."""
    weight = torch.randn(64, 1000, generator=torch.Generator().manual_seed(3))
    plain, double = quantize(weight, preset("nf4")), quantize(weight, preset("nf4-double"))
    spread = (plain.scales - plain.scales.mean()).abs().max()
    half_step = spread / 127 / 2
    rounding = 4 * FLOAT32_EPS * plain.scales.max()
    assert (double.scales - plain.scales).abs().max() <= half_step + rounding
    error = [(q.dequantize() - weight).square().mean().item() for q in (plain, double)]
    assert error[1] < error[0] * 1.02
    assert double.nbytes < plain.nbytes


def test_double_quantization_survives_scales_of_all_sizes():
    weight = torch.randn(300, 8, generator=torch.Generator().manual_seed(4))
    weight[::3] *= 1e-6
    weight[1::3] = 0
    weight[5] *= 1e4
    quantized = quantize(weight, preset("nf4-double", group_size=8))
    assert torch.all(quantized.scales >= 0)
    assert torch.all(quantized.dequantize()[1::3][weight[1::3].sum(1) == 0] == 0)
    error = (weight.double() - quantized.dequantize(torch.float64)).abs()
    assert torch.all(error <= quantized.error_bound())


@pytest.mark.parametrize("small", range(1, 9))
def test_a_doubly_quantized_scale_is_never_negative(small):
    # Of `small` scales near 0 and one of 10 the small ones decode to 0 ± step/2; below 0 they would
    # turn signs around.
    weight = torch.full((small + 1, 8), 1e-6)
    weight[-1] = 10
    quantized = quantize(weight, preset("nf4-double", group_size=8))
    assert torch.all(quantized.scales >= 0)
    assert torch.all(quantized.dequantize() >= 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((-1.0, 0.0, 1.0), "3 values; a power of two"),
        ((-1.0, -0.5, 0.5, 1.0), "must hold 0"),
        ((-0.5, 0.0, 0.25, 0.5), "must hold 0, and a largest magnitude of exactly 1"),
        (tuple(i / 31 for i in range(32)), "16 or fewer"),
    ],
)
def test_a_table_that_is_no_code_book_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        CodeBook("mine", values)
