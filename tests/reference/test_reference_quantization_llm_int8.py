"""LLM.int8() against float64, exact integers and bitsandbytes."""

import bitsandbytes as oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.quantization import LLMInt8Linear, llm_int8_matmul, preset, quantize
from torch import nn
from torch.nn import functional

INT8 = preset("int8")
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def activations(rows, features, seed, outliers=()):
    """Normal numbers, below the threshold of 6, with some features of about ±40."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, features, generator=generator).clamp(-5, 5)
    x[:, list(outliers)] += 40
    return x


def matrix(rows, features, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, features, generator=generator) / features**0.5


def error_bound(x, weight, threshold, row_scales=None):
    """How far each output [T, M] may lie from x·Wᵀ, from the definition of both roundings.

    x = x̂ + dx, w = ŵ + dw, |dx| ≤ sx/2 (0 for outliers), |dw| ≤ sw/2:
    |x·w − x̂·ŵ| = |dx·ŵ + x·dw| ≤ sx/2·|ŵ| + |x|·sw/2 for each product.
    Then roundings, relative: the float32 scales and the three of the scaled sum; for K outliers
    their weights, K products and K sums in the dtype of x; and the output.
    """
    wide = x.double()
    outlier = (x.abs() >= threshold).any(dim=0)
    restored = weight.dequantize(torch.float64).abs()
    if row_scales is None:
        row_scales = wide.masked_fill(outlier, 0).abs().amax(dim=1) / 127
    regular, exact = wide.abs() * ~outlier, wide.abs() * outlier
    dx = row_scales[:, None] / 2 * ~outlier
    dw = (weight.scales.double() / 2)[:, None].expand_as(restored)
    quantization = dx @ restored.T + wide.abs() @ dw.T
    single, own = torch.finfo(torch.float32).eps, torch.finfo(x.dtype).eps
    count = int(outlier.sum())
    rounding = 3 * single * (regular + dx) @ restored.T
    rounding += (count + 2) * own * (exact @ restored.T)
    value = (wide @ weight.dequantize(torch.float64).T).abs()
    return (quantization + rounding) * (1 + own) + own * (value + quantization)


@settings(deadline=None)
@given(
    rows=st.integers(1, 20),
    features=st.integers(1, 70),
    outputs=st.integers(1, 20),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(DTYPES),
    threshold=st.sampled_from([0.0, 2.0, 6.0, float("inf")]),
    data=st.data(),
)
def test_each_output_is_within_the_bound_of_both_roundings(
    rows, features, outputs, seed, dtype, threshold, data
):
    outliers = data.draw(st.sets(st.integers(0, features - 1), max_size=3))
    x = activations(rows, features, seed, outliers).to(dtype)
    float_weight = matrix(outputs, features, seed + 1)
    weight = quantize(float_weight, INT8)
    product = llm_int8_matmul(x, weight, threshold)
    assert product.dtype is dtype
    error = (product.double() - x.double() @ float_weight.double().T).abs()
    assert torch.all(error <= error_bound(x, weight, threshold))


@pytest.mark.parametrize("outlier", [None, 40.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_that_the_codes_hold_give_the_plain_product(outlier, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-127, 128, (7, 33), generator=generator)
    weight = torch.randint(-127, 128, (12, 33), generator=generator)
    x[:, 0] = weight[:, 0] = 127  # the scales are 2^-5 and 1
    x = x.to(dtype) / 32
    if outlier:
        x[:, 4] = outlier
    product = llm_int8_matmul(x, quantize(weight.to(dtype), INT8))
    assert torch.equal(product, x @ weight.to(dtype).T)


def test_an_outlier_feature_leaves_the_others_their_precision():
    """One feature of 60 beside others of up to 4 would stretch the steps of its row 15 times."""
    x = activations(64, 128, seed=1).clamp(-4, 4).double()
    x[:, 17] = 60
    weight = torch.randint(-127, 128, (32, 128), generator=torch.Generator().manual_seed(2))
    weight[:, 0] = 127
    weight = weight.double()  # exact in int8: what is lost is lost by the activations
    quantized = quantize(weight, INT8)

    def error(threshold):
        return (llm_int8_matmul(x, quantized, threshold) - x @ weight.T).square().mean().sqrt()

    assert error(6.0) < error(float("inf")) / 10


@pytest.mark.parametrize("dtype", DTYPES)
def test_threshold_zero_is_the_product_with_the_dequantized_weight(dtype):
    x, weight = activations(5, 40, seed=3).to(dtype), quantize(matrix(8, 40, seed=4), INT8)
    expected = functional.linear(x, weight.dequantize(dtype))
    assert torch.equal(llm_int8_matmul(x, weight, 0.0), expected)


@pytest.mark.parametrize("outliers", [(), (3,), (0, 50, 63)])
def test_bitsandbytes_is_as_near_as_its_own_bound_allows(outliers):
    x = activations(24, 64, seed=5, outliers=outliers).half()
    weight = matrix(40, 64, seed=6).half()
    with torch.compiler.set_stance("force_eager"):
        state = oracle.MatmulLtState()
        state.has_fp16_weights, state.threshold = False, 6.0
        state.is_training = False  # while training, a CPU leaves the activations in 16 bit
        theirs = oracle.matmul(x, weight, state=state)
    ours = llm_int8_matmul(x, quantize(weight, INT8))
    # It looks for a row's largest also among the small values of outlier features, and takes
    # products with 127/absmax, rounded, in place of quotients: an eps of each of the 127 steps.
    row_scales = x.double().masked_fill(x.abs() >= 6, 0).abs().amax(dim=1) / 127
    quantized = quantize(weight, INT8)
    slack = 1 + 2 * 127 * torch.finfo(torch.float32).eps
    bound = error_bound(x, quantized, 6.0) + slack * error_bound(x, quantized, 6.0, row_scales)
    assert torch.all((ours.double() - theirs.double()).abs() <= bound)
    # Far nearer to each other than to the exact product: the same codes but for near-ties.
    exact = x.double() @ weight.double().T
    apart = (ours.double() - theirs.double()).square().mean()
    assert apart < (ours.double() - exact).square().mean() / 4


def test_rows_of_zeros_give_zeros():
    x = activations(4, 20, seed=7, outliers=(2,))
    x[1] = x[3] = 0
    product = llm_int8_matmul(x, quantize(matrix(6, 20, seed=8), INT8))
    assert not product[[1, 3]].any()
    assert not llm_int8_matmul(torch.zeros(2, 20), quantize(torch.zeros(6, 20), INT8)).any()


def test_leading_dimensions_are_rows():
    x, weight = activations(30, 20, seed=9, outliers=(5,)), quantize(matrix(6, 20, seed=10), INT8)
    flat = llm_int8_matmul(x, weight)
    assert torch.equal(llm_int8_matmul(x.view(2, 3, 5, 20), weight), flat.view(2, 3, 5, 6))
    assert torch.equal(llm_int8_matmul(x[0], weight), llm_int8_matmul(x[:1], weight)[0])
    assert llm_int8_matmul(x[:0].view(2, 0, 20), weight).shape == (2, 0, 6)


def test_a_layout_in_memory_changes_nothing():
    x, weight = activations(20, 30, seed=11, outliers=(5,)), quantize(matrix(6, 20, seed=12), INT8)
    assert torch.equal(llm_int8_matmul(x.T, weight), llm_int8_matmul(x.T.contiguous(), weight))


def test_rows_meet_only_in_the_choice_of_outlier_features():
    x, weight = activations(9, 20, seed=13), quantize(matrix(6, 20, seed=14), INT8)
    alone = torch.cat([llm_int8_matmul(row[None], weight) for row in x])
    assert torch.equal(llm_int8_matmul(x, weight), alone)
    # An outlier of one row makes its feature one for all: the same as if all had it declared.
    beside = torch.cat([x, torch.zeros(1, 20)])
    beside[-1, 4] = 7
    together = llm_int8_matmul(beside, weight)[:-1]
    assert not torch.equal(together, alone)
    single = torch.cat([llm_int8_matmul(torch.stack([r, beside[-1]]), weight)[:1] for r in x])
    torch.testing.assert_close(together, single, rtol=0, atol=0)


def test_the_threshold_itself_is_an_outlier():
    x = torch.tensor([[6.0, 1.0, 0.3]])
    weight = quantize(torch.tensor([[127.0, 1.0, 1.0]]), INT8)  # codes are the weights
    # Without the outlier the scale of the row is 1/127, with it 6/127.
    small = torch.tensor(round(0.3 * 127) / 127)
    torch.testing.assert_close(llm_int8_matmul(x, weight), 6 * 127 + 1 + small.view(1, 1))
    above = llm_int8_matmul(x, weight, 6.0000005)
    assert above.item() != llm_int8_matmul(x, weight).item()


def test_the_longest_sum_fits_into_int32():
    features = (2**31 - 1) // 127**2
    ones = torch.ones(1, features)
    product = llm_int8_matmul(ones, quantize(ones, INT8))
    # Two scales of 1/127, the sum and two products are rounded.
    assert abs(product.item() / features - 1) <= 5 * torch.finfo(torch.float32).eps / 2
    with pytest.raises(ValueError, match=f"{features + 1} features; sums of more than {features}"):
        llm_int8_matmul(torch.ones(1, features + 1), quantize(torch.ones(1, features + 1), INT8))


X, WEIGHT = torch.ones(2, 8), torch.ones(3, 8)


@pytest.mark.parametrize(
    ("x", "scheme", "threshold", "message"),
    [
        (X, INT8, -1.0, "threshold is -1.0; give 0 or more"),
        (X, INT8, float("nan"), "threshold is nan"),
        (torch.ones(2, 7), INT8, 6.0, r"float32 \(2, 7\); the weight takes .* \[\.\.\., 8\]"),
        (torch.tensor(1.0), INT8, 6.0, r"float32 \(\);"),
        (X.int(), INT8, 6.0, r"x is torch\.int32"),
        (X * float("nan"), INT8, 6.0, r"x\[0, 0\] is nan"),
        (X * float("inf"), INT8, 6.0, r"x\[0, 0\] is inf"),
        (X, preset("int4"), 6.0, "the weight is 4-bit asymmetric"),
        (X, preset("fp8"), 6.0, "the weight is 8-bit e4m3fn"),
        (
            X,
            preset("int8", axis=1),
            6.0,
            "needs a matrix in 8-bit symmetric, per channel of axis 0",
        ),
        (X, preset("int8", granularity="tensor"), 6.0, "per tensor"),
    ],
)
def test_what_cannot_be_multiplied_is_refused(x, scheme, threshold, message):
    with pytest.raises(ValueError, match=message):
        llm_int8_matmul(x, quantize(WEIGHT, scheme), threshold)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_is_the_product_and_the_bias(bias, dtype):
    torch.manual_seed(0)
    linear = nn.Linear(20, 6, bias=bias)
    layer = LLMInt8Linear.from_linear(linear, threshold=3.0).to(dtype)
    x = activations(10, 20, seed=15, outliers=(4,)).to(dtype).view(2, 5, 20)
    expected = llm_int8_matmul(x, quantize(linear.weight, INT8), 3.0)
    if bias:
        expected = expected + linear.bias.to(dtype)
    assert torch.equal(layer(x), expected)
    assert not layer(x.requires_grad_()).requires_grad
    assert repr(layer).endswith("scales float32, threshold=3.0)")


def test_the_layer_refuses_a_wrong_threshold_when_it_is_made():
    with pytest.raises(ValueError, match="threshold is -6"):
        LLMInt8Linear.from_linear(nn.Linear(4, 4), threshold=-6)


def test_the_layer_is_saved_and_loaded(tmp_path):
    torch.manual_seed(1)
    layer, other = (LLMInt8Linear.from_linear(nn.Linear(20, 6)) for _ in range(2))
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    x = activations(3, 20, seed=16, outliers=(1,))
    assert torch.equal(other(x), layer(x))
    held = sum(v.nbytes for v in layer.state_dict().values() if isinstance(v, torch.Tensor))
    assert held == 20 * 6 + 4 * 6 + 4 * 6  # codes, scales, bias: no 16-bit copy of the weights
