"""Fake quantization: the bits of post-training quantization, the gradients of torch's own.

torch multiplies by 1/scale where the reference divides by it. The tests that compare the two use
scales that are powers of two, where both are exact, so that ties and clamp edges agree too.
"""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.quantization import (
    PRESETS,
    FakeQuantizedLinear,
    Granularity,
    QuantizationScheme,
    QuantizedLinear,
    convert_qat,
    fake_quantize,
    prepare_qat,
    preset,
    quantize,
    quantize_model,
)
from tiny_models import SAMPLE_IDS, make_model
from torch import nn

BITS = range(2, 9)
GRIDS = [
    *({"bits": bits, "symmetric": symmetric} for bits in BITS for symmetric in (True, False)),
    *({"bits": 4, "codebook": name} for name in ("nf4", "fp4")),
    *({"bits": 8, "codebook": name} for name in ("e4m3fn", "e5m2")),
    {"bits": 4, "codebook": "nf4", "double_quantization": True},
]
PLACES = [
    {"granularity": Granularity.TENSOR},
    {"granularity": Granularity.CHANNEL, "axis": 0},
    {"granularity": Granularity.CHANNEL, "axis": -1},
    *({"granularity": Granularity.GROUP, "group_size": size} for size in (1, 3, 64)),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
IDS = torch.tensor([SAMPLE_IDS])


def bits_of(tensor):
    """The bit patterns: unlike ==, they tell −0 from 0."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.detach().contiguous().view(integers[tensor.element_size()])


@st.composite
def schemes(draw):
    grid = draw(st.sampled_from(GRIDS))
    narrow = torch.float32 if grid.get("double_quantization") else torch.float16
    return QuantizationScheme(
        **grid,
        **draw(st.sampled_from(PLACES)),
        scale_dtype=draw(st.sampled_from([torch.float32, narrow])),
        packed=draw(st.booleans()),
    )


@st.composite
def weights(draw):
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    values = torch.randn(shape) * 2.0 ** draw(st.integers(-12, 8))
    values[torch.rand(shape) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0
    return values.to(draw(st.sampled_from(DTYPES))).requires_grad_()


@given(weights(), schemes(), st.sampled_from([None, *DTYPES]))
@settings(deadline=None, max_examples=300)
def test_forward_has_the_bits_of_quantize_and_dequantize(weight, scheme, dtype):
    before = weight.detach().clone()
    fake = fake_quantize(weight, scheme, dtype=dtype)
    expected = quantize(weight, scheme).dequantize(dtype)
    assert fake.dtype is expected.dtype
    assert torch.equal(bits_of(fake), bits_of(expected))
    assert torch.equal(bits_of(weight), bits_of(before))


@given(weights(), schemes(), st.sampled_from([None, torch.float64]))
@settings(deadline=None)
def test_gradient_is_the_identity_where_scales_follow_the_weights(weight, scheme, dtype):
    upstream = torch.randn(weight.shape).to(dtype or weight.dtype)
    fake_quantize(weight, scheme, dtype=dtype).backward(upstream)
    assert weight.grad.dtype is weight.dtype
    assert torch.equal(weight.grad, upstream.to(weight.dtype))


@given(weights(), schemes().filter(lambda scheme: not scheme.double_quantization))
@settings(deadline=None, max_examples=200)
def test_the_scales_that_quantize_chose_give_the_same_bits_when_they_are_given(weight, scheme):
    chosen = quantize(weight, scheme)
    given_them = fake_quantize(weight, scheme, scales=chosen.scales, zero_points=chosen.zero_points)
    assert torch.equal(bits_of(given_them), bits_of(chosen.dequantize()))


def quarter_steps(bits, scale):
    """All multiples of a quarter step from far below the codes to far above: ties and edges too."""
    reach = 4 * (2**bits + 3)
    return torch.arange(-reach, reach + 1, dtype=torch.float32) / 4 * scale


def value_and_gradient(fake, weight):
    weight = weight.clone().requires_grad_()
    value = fake(weight)
    value.backward(torch.full_like(value, 3.0))
    return value.detach(), weight.grad


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("scale", [0.25, 1.0, 8.0])
def test_symmetric_values_and_clamp_edges_are_those_of_torch(bits, scale):
    weight, limit = quarter_steps(bits, scale), 2 ** (bits - 1) - 1
    scheme = QuantizationScheme(bits=bits)
    ours = value_and_gradient(
        lambda w: fake_quantize(w, scheme, scales=torch.tensor(scale)), weight
    )
    theirs = value_and_gradient(
        lambda w: torch.fake_quantize_per_tensor_affine(w, scale, 0, -limit, limit), weight
    )
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    assert 0 < (ours[1] == 0).sum() < weight.numel()


@pytest.mark.parametrize("bits", BITS)
def test_asymmetric_values_and_clamp_edges_are_those_of_torch(bits):
    weight, limit = quarter_steps(bits, 0.5), 2**bits - 1
    scheme = QuantizationScheme(bits=bits, symmetric=False)
    for zero_point in {0, 1, limit // 2, limit - 1, limit}:
        ours = value_and_gradient(
            lambda w, zero=zero_point: fake_quantize(
                w, scheme, scales=torch.tensor(0.5), zero_points=torch.tensor(zero)
            ),
            weight,
        )
        theirs = value_and_gradient(
            lambda w, zero=zero_point: torch.fake_quantize_per_tensor_affine(
                w, 0.5, zero, 0, limit
            ),
            weight,
        )
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_channels_of_every_axis_are_those_of_torch(axis):
    torch.manual_seed(0)
    weight = torch.randint(-80, 80, (3, 3, 3)) / 8  # a cube: a wrong axis changes no shape
    scales = torch.tensor([0.25, 1.0, 0.5])
    zeros = torch.tensor([3, 15, 0], dtype=torch.int32)
    scheme = QuantizationScheme(bits=4, symmetric=False, granularity=Granularity.CHANNEL, axis=axis)
    ours = value_and_gradient(
        lambda w: fake_quantize(w, scheme, scales=scales, zero_points=zeros), weight
    )
    theirs = value_and_gradient(
        lambda w: torch.fake_quantize_per_channel_affine(w, scales, zeros, axis % 3, 0, 15), weight
    )
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    assert 0 < (ours[1] == 0).sum() < weight.numel()


def test_each_group_is_clamped_by_its_own_scale_and_the_short_last_one_too():
    torch.manual_seed(0)
    weight = torch.randint(-40, 40, (2, 7)) / 8
    scales = torch.tensor([[0.25, 1.0, 0.5], [0.5, 0.125, 0.25]])
    scheme = QuantizationScheme(bits=3, granularity=Granularity.GROUP, group_size=3)
    value, gradient = value_and_gradient(lambda w: fake_quantize(w, scheme, scales=scales), weight)
    for row in range(2):
        for group, columns in enumerate([slice(0, 3), slice(3, 6), slice(6, 7)]):
            scale = scales[row, group].item()
            expected = value_and_gradient(
                lambda w, scale=scale: torch.fake_quantize_per_tensor_affine(w, scale, 0, -3, 3),
                weight[row, columns],
            )
            assert torch.equal(value[row, columns], expected[0])
            assert torch.equal(gradient[row, columns], expected[1])
    assert 0 < (gradient == 0).sum() < weight.numel()


@pytest.mark.parametrize(
    ("name", "bits", "outermost"),
    [("nf4", 4, 1.0), ("fp4", 4, 1.0), ("e4m3fn", 8, 448.0), ("e5m2", 8, 57344.0)],
)
def test_a_table_of_levels_clamps_beyond_its_outermost_level(name, bits, outermost):
    scheme, edge = QuantizationScheme(bits=bits, codebook=name), 3 * outermost
    inner = torch.tensor([-edge, -edge / 3, 0.0, 0.97 * edge, edge])
    outer = torch.nextafter(torch.tensor([-edge, edge]), torch.tensor([-math.inf, math.inf]))
    weight = torch.cat([inner, outer, torch.tensor([-33 * edge, 33 * edge])])
    value, gradient = value_and_gradient(
        lambda w: fake_quantize(w, scheme, scales=torch.tensor(3.0)), weight
    )
    assert gradient.tolist() == [3.0] * 5 + [0.0] * 4
    assert value[5:].tolist() == [-edge, edge, -edge, edge]


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_scale_of_zero_represents_zero_alone(symmetric):
    scheme = QuantizationScheme(bits=4, symmetric=symmetric)
    zeros = None if symmetric else torch.tensor(5)
    value, gradient = value_and_gradient(
        lambda w: fake_quantize(w, scheme, scales=torch.tensor(0.0), zero_points=zeros),
        torch.tensor([0.0, 0.5, -1e-30, 3.0]),
    )
    assert value.tolist() == [0.0] * 4
    assert gradient.tolist() == [3.0, 0.0, 0.0, 0.0]


def test_an_infinite_gradient_does_not_reach_a_clamped_weight_as_nan():
    weight = torch.tensor([0.5, 90.0], requires_grad=True)
    fake = fake_quantize(weight, QuantizationScheme(bits=4), scales=torch.tensor(1.0))
    fake.backward(torch.tensor([1.0, math.inf]))
    assert weight.grad.tolist() == [1.0, 0.0]


def test_given_scales_are_rounded_as_they_would_be_stored():
    scheme = QuantizationScheme(bits=8, scale_dtype=torch.float16)
    fake = fake_quantize(torch.tensor([1.0]), scheme, scales=torch.tensor(0.1))
    assert fake.item() == 10 * float(torch.tensor(0.1).half())


@pytest.mark.parametrize(
    ("fields", "given", "message"),
    [
        ({}, {"zero_points": torch.tensor(1)}, "without scales"),
        ({}, {"scales": torch.tensor(1.0), "zero_points": torch.tensor(1)}, "takes no zero_points"),
        ({"symmetric": False}, {"scales": torch.tensor(1.0)}, "needs zero_points"),
        ({}, {"scales": torch.ones(2)}, r"scales have shape \(2,\).* need \(\)"),
        ({}, {"scales": torch.tensor(-1.0)}, "finite and 0 or more"),
        ({}, {"scales": torch.tensor(math.nan)}, "finite and 0 or more"),
        ({"scale_dtype": torch.float16}, {"scales": torch.tensor(1e5)}, "exceeds torch.float16"),
        (
            {"symmetric": False},
            {"scales": torch.tensor(1.0), "zero_points": torch.tensor(16)},
            r"zero_points are 16…16; they are codes, 0…15",
        ),
        (
            {"codebook": "nf4", "double_quantization": True},
            {"scales": torch.tensor(1.0)},
            "give none",
        ),
    ],
)
def test_scales_that_do_not_fit_are_refused(fields, given, message):
    with pytest.raises(ValueError, match=message):
        fake_quantize(torch.ones(2, 3), QuantizationScheme(bits=4, **fields), **given)


@pytest.mark.parametrize("scales", [None, torch.tensor(1.0)])
def test_a_weight_that_is_not_finite_is_refused(scales):
    with pytest.raises(ValueError, match=r"weight\[1\] is nan"):
        fake_quantize(torch.tensor([1.0, math.nan]), QuantizationScheme(bits=4), scales=scales)


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", PRESETS)
def test_the_layer_computes_what_the_deployed_layer_will(name, bias, dtype, weight_dtype):
    torch.manual_seed(0)
    linear = nn.Linear(100, 12, bias=bias).to(weight_dtype)
    x = torch.randn(3, 100).to(dtype)
    fake = FakeQuantizedLinear(linear, PRESETS[name])
    assert torch.equal(fake(x), QuantizedLinear.from_linear(linear, PRESETS[name])(x))
    assert fake.float_weight is linear.weight
    assert torch.equal(fake.weight, quantize(linear.weight, PRESETS[name]).dequantize())
    assert fake.bias is linear.bias
    assert fake.state_dict().keys() == linear.state_dict().keys()


def trained(model, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("name", PRESETS)
def test_conversion_is_the_quantization_of_the_trained_weights(architecture, name):
    model = make_model(architecture)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # made before, on purpose
    start = copy.deepcopy(model.state_dict())
    names = prepare_qat(model, PRESETS[name])
    trained(model, optimizer)
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, start[key])}
    assert {f"{layer}.weight" for layer in names} <= moved

    plain = make_model(architecture)
    plain.load_state_dict(model.state_dict())
    expected_report = quantize_model(plain, PRESETS[name])
    in_training = model(IDS).logits
    report = convert_qat(model)
    assert report.skipped.keys() == expected_report.skipped.keys()
    assert replace(report, skipped=expected_report.skipped) == expected_report
    assert torch.equal(model(IDS).logits, in_training)
    assert torch.equal(model(IDS).logits, plain(IDS).logits)
    for layer in names:
        codes = model.get_submodule(layer).quantized_weight.codes
        assert torch.equal(codes, plain.get_submodule(layer).quantized_weight.codes)


def test_layers_that_share_a_weight_stay_one():
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    model = nn.Sequential(first, second, first)
    prepare_qat(model, preset("int8"))
    assert model[0] is model[2]
    convert_qat(model)
    assert model[0] is model[2]
    assert model[0].codes.data_ptr() == model[1].codes.data_ptr()


def test_skipped_and_tied_layers_stay_float():
    model = make_model("llama")
    names = prepare_qat(model, preset("int4"), skip=("down_proj",))
    kinds = {name: type(m) for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert {name for name, kind in kinds.items() if kind is FakeQuantizedLinear} == set(names)
    left = {name for name, kind in kinds.items() if kind is nn.Linear}
    assert left == {"lm_head", *(f"model.layers.{i}.mlp.down_proj" for i in range(2))}
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_weight_that_cannot_be_quantized_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        model[1].weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"^1: weight\[0, 0\] is nan"):
        prepare_qat(model, preset("int8"))
    assert {type(layer) for layer in model} == {nn.Linear}
    with torch.no_grad():
        model[1].weight[0, 0] = 0
    prepare_qat(model, preset("int8"))
    with torch.no_grad():
        model[1].float_weight[0, 0] = math.inf
    with pytest.raises(ValueError, match=r"^1: weight\[0, 0\] is inf"):
        convert_qat(model)
    assert {type(layer) for layer in model} == {FakeQuantizedLinear}


def test_conversion_needs_prepared_layers_of_one_scheme():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(ValueError, match="call prepare_qat first"):
        convert_qat(model)
    prepare_qat(model, preset("int8"), skip=("1",))
    prepare_qat(model, preset("nf4"))
    with pytest.raises(ValueError, match="2 schemes"):
        convert_qat(model)
