"""The quantized layer and the quantized model."""

import copy
import itertools

import pytest
import torch
from infopt_reference.quantization import (
    PRESETS,
    QuantizedLinear,
    model_bytes,
    preset,
    quantize,
    quantize_model,
)
from infopt_reference.quantization import quantized as quantized_module
from infopt_reference.quantization.quantized import joined, parted, separable
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(100, 24)  # 100 is no multiple of 64


def tiny_llama(tied):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", PRESETS)
def test_layer_equals_the_product_with_the_dequantized_weight(linear, name, bias, dtype):
    layer = QuantizedLinear(quantize(linear.weight, PRESETS[name]), linear.bias if bias else None)
    x = torch.randn(3, 5, 100).to(dtype)
    weight = quantize(linear.weight, PRESETS[name]).dequantize(dtype)
    expected = functional.linear(x, weight, linear.bias.to(dtype) if bias else None)
    assert torch.equal(layer(x), expected)
    assert layer(x).dtype is dtype


@pytest.mark.parametrize("rows", [1, 8, 24, 45])
@pytest.mark.parametrize("name", PRESETS)
def test_a_layer_in_parts_gives_what_the_whole_matrix_gives(monkeypatch, name, rows):
    monkeypatch.setattr(quantized_module, "CACHED_ELEMENTS", 801)  # eight rows
    linear = nn.Linear(99, rows)  # rows of 3- and 4-bit codes end within bytes
    weight = quantize(linear.weight, PRESETS[name])
    parts = parted(weight)
    assert (len(parts) > 1) == (rows > 8 and separable(weight.scheme))
    assert torch.equal(torch.cat([part.dequantize() for part in parts]), weight.dequantize())
    if len(parts) > 1:
        assert all(map(torch.equal, joined(parts).constants.values(), weight.constants.values()))
    x = torch.randn(3, 99)
    expected = functional.linear(x, weight.dequantize(), linear.bias)
    bound = torch.finfo(x.dtype).eps * 99 * functional.linear(x.abs(), weight.dequantize().abs())
    assert bool(((QuantizedLinear(weight, linear.bias)(x) - expected).abs() <= bound).all())


@pytest.mark.parametrize("name", PRESETS)
def test_state_dict_round_trip(linear, name, tmp_path):
    layer = QuantizedLinear.from_linear(linear, PRESETS[name])
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = QuantizedLinear.from_linear(nn.Linear(100, 24), PRESETS[name])
    x = torch.randn(2, 100)
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    assert torch.equal(other(x), layer(x))


def test_a_state_dict_of_another_code_book_is_refused(linear):
    # All shapes agree: without the scheme in the state the weights would be garbage, silently.
    saved = QuantizedLinear.from_linear(linear, PRESETS["nf4"]).state_dict()
    with pytest.raises(ValueError, match=r"4-bit nf4.* this layer reads 4-bit fp4"):
        QuantizedLinear.from_linear(linear, PRESETS["fp4"]).load_state_dict(saved)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_change_of_dtype_leaves_codes_and_scales_alone(linear, name, dtype):
    layer = QuantizedLinear.from_linear(linear, PRESETS[name])
    before = {k: v.clone() for k, v in layer.quantized_weight.constants.items()}
    layer.to(dtype)
    after = layer.quantized_weight.constants
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert after[key].dtype is value.dtype
        assert torch.equal(after[key], value)
    assert layer.bias.dtype is dtype
    assert layer(torch.randn(1, 100, dtype=dtype)).dtype is dtype


def test_layer_moves_between_devices(linear):
    layer = QuantizedLinear.from_linear(linear, PRESETS["int4"])
    moved = copy.deepcopy(layer).to("meta")
    assert {
        tensor.device.type
        for tensor in moved.state_dict().values()
        if isinstance(tensor, torch.Tensor)
    } == {"meta"}
    assert moved(torch.empty(2, 100, device="meta")).shape == (2, 24)


def test_gradients_reach_input_and_bias(linear):
    layer = QuantizedLinear.from_linear(linear, PRESETS["int8"])
    x = torch.randn(2, 100, requires_grad=True)
    layer(x).sum().backward()
    expected = layer.quantized_weight.dequantize().sum(dim=0).expand(2, -1)
    torch.testing.assert_close(x.grad, expected)
    assert torch.equal(layer.bias.grad, torch.full((24,), 2.0))
    assert [name for name, _ in layer.named_parameters()] == ["bias"]


@pytest.mark.parametrize("name", PRESETS)
def test_layer_holds_the_bytes_that_it_claims(linear, name):
    layer = QuantizedLinear.from_linear(linear, PRESETS[name])
    held = sum(t.nbytes for t in layer.state_dict().values() if isinstance(t, torch.Tensor))
    assert held == layer.quantized_weight.nbytes + linear.bias.nbytes


def test_only_matrices_make_a_layer():
    with pytest.raises(ValueError, match=r"shape \(8,\); a matrix is needed"):
        QuantizedLinear(quantize(torch.ones(8), PRESETS["int4"]))


@pytest.mark.parametrize("name", PRESETS)
def test_model_equals_one_with_the_dequantized_weights(name):
    model = tiny_llama(tied=True)
    expected = copy.deepcopy(model)
    for path, module in expected.named_modules():
        if isinstance(module, nn.Linear) and path != "lm_head":
            module.weight.data = quantize(module.weight, PRESETS[name]).dequantize()
    report = quantize_model(model, PRESETS[name])
    tokens = torch.arange(20)[None]
    assert torch.equal(model(tokens).logits, expected(tokens).logits)
    assert len(report.quantized) == 14
    assert "lm_head" in report.skipped


def test_report_counts_real_bytes():
    model = tiny_llama(tied=False)
    before = model_bytes(model)
    report = quantize_model(model, PRESETS["int4"], skip=())
    assert report.bytes_before == before
    assert report.bytes_after == model_bytes(model) == model.get_memory_footprint()
    saved = sum(
        4 * module.in_features * module.out_features - module.quantized_weight.nbytes
        for module in model.modules()
        if isinstance(module, QuantizedLinear)
    )
    assert before - report.bytes_after == saved
    assert "15 matrices to 4-bit asymmetric, groups of 64" in str(report)


def test_a_tied_head_is_left_alone_unless_asked_for():
    model = tiny_llama(tied=True)
    assert "lm_head" in quantize_model(model, PRESETS["int8"], skip=()).skipped
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model = tiny_llama(tied=True)
    embedding = model.model.embed_tokens.weight.clone()
    report = quantize_model(model, PRESETS["int8"], skip=(), include_tied=True)
    assert "lm_head" in report.quantized
    assert isinstance(model.lm_head, QuantizedLinear)
    assert torch.equal(model.model.embed_tokens.weight, embedding)
    assert model.config.tie_word_embeddings is False
    model.tie_weights()
    assert isinstance(model.lm_head, QuantizedLinear)


@pytest.mark.parametrize(
    ("skip", "kept"),
    [
        (("down_proj",), {"model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"}),
        (("layers.1.mlp",), {f"model.layers.1.mlp.{p}_proj" for p in ("gate", "up", "down")}),
        (("model.layers.0.self_attn.q_proj",), {"model.layers.0.self_attn.q_proj"}),
    ],
)
def test_skip_names_whole_parts_of_paths(skip, kept):
    model = tiny_llama(tied=False)
    skipped = quantize_model(model, PRESETS["int8"], skip=skip).skipped
    assert set(skipped) - {"model.embed_tokens.weight"} == kept


def test_a_skip_that_names_nothing_is_an_error():
    # A part of a name is not a name: "layers.1" must not stand for "layers.10".
    for name in ("down_prj", "down", "ayers.1"):
        with pytest.raises(ValueError, match=f"skip names '{name}'"):
            quantize_model(tiny_llama(tied=False), PRESETS["int8"], skip=(name,))
    with pytest.raises(ValueError, match="no weight matrix left"):
        quantize_model(nn.Sequential(nn.Linear(2, 2)), PRESETS["int8"], skip=("0",))


def test_shared_weights_are_quantized_once_and_stay_shared():
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    model = nn.Sequential(first, second, first)
    quantize_model(model, PRESETS["int8"])
    assert model[0] is model[2]
    assert model[0].codes is model[1].codes
    assert model_bytes(model) == 8 * 8 + 8 * 4 + 2 * 8 * 4  # codes, scales, two biases


def test_a_weight_that_cannot_be_quantized_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight.data[0, 1] = float("nan")
    with pytest.raises(ValueError, match=r"1: weight\[0, 1\] is nan"):
        quantize_model(model, PRESETS["int8"])
    assert type(model[0]) is nn.Linear


def test_an_owner_that_reads_the_weight_of_a_layer_is_given_it_decoded():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "mlp": nn.Linear(8, 8)})
    expected = copy.deepcopy(model["attention"])
    weight = expected.out_proj.weight
    weight.data = quantize(weight, PRESETS["int8"]).dequantize()
    report = quantize_model(model, PRESETS["int8"])
    assert report.quantized == ("attention.out_proj", "mlp")
    assert "attention.in_proj_weight" in report.skipped
    x = torch.randn(3, 1, 8)
    assert torch.equal(model["attention"](x, x, x)[0], expected(x, x, x)[0])


def test_error_falls_with_bits():
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(5))
    errors = [
        (quantize(weight, preset("int4", bits=bits)).dequantize() - weight).square().mean().item()
        for bits in range(2, 9)
    ]
    # Each bit halves the step but for the "− 1": more than a factor 3 in the square.
    assert all(coarse > 3 * fine for coarse, fine in itertools.pairwise(errors))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", PRESETS)
def test_codes_do_not_depend_on_the_device(linear, name):
    on_cpu, on_gpu = (
        quantize(linear.weight, PRESETS[name]),
        quantize(linear.weight.cuda(), PRESETS[name]),
    )
    assert torch.equal(on_gpu.dequantize().cpu(), on_cpu.dequantize())
