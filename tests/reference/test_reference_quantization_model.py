"""Whole models, quantized block by block with calibration."""

import copy

import pytest
import torch
from infopt_reference.quantization import (
    METHODS,
    HessianStatistics,
    LLMInt8Linear,
    QuantizedLinear,
    gptq,
    model_bytes,
    preset,
    quantize,
    quantize_model,
)
from infopt_reference.quantization.layerwise import block_calls, decoder_blocks, model_calls
from tiny_models import VOCABULARY, make_model
from torch import nn

INT4 = preset("int4", group_size=32)
CALIBRATED = [name for name, method in METHODS.items() if method.calibrated]
ARCHITECTURES = ["llama", "qwen2", "gemma2"]


def batches(seed, count=6, length=24):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (2, length), generator=generator) for _ in range(count)]


def scheme_of(method):
    return preset("int8") if method in ("smoothquant", "llm-int8") else INT4


def quantized(model, method="gptq", calibration=None, **options):
    copied = copy.deepcopy(model)
    calibration = batches(0) if calibration is None else calibration
    report = quantize_model(
        copied, scheme_of(method), method=method, calibration=calibration, **options
    )
    return copied, report


@torch.no_grad()
def logits(model, ids, **inputs):
    return model(ids, use_cache=False, **inputs).logits


def codes(model):
    return {n: m.codes for n, m in model.named_modules() if isinstance(m, QuantizedLinear)}


@torch.no_grad()
def divergence(model, reference):
    """Mean KL(reference ‖ model) over positions of other texts."""
    total = 0.0
    for ids in batches(1, count=4):
        p, q = (logits(m, ids).double().log_softmax(-1) for m in (reference, model))
        total += float((p.exp() * (p - q)).sum(-1).mean())
    return total


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", CALIBRATED)
def test_calibrated_models_replace_every_layer_and_run(architecture, method):
    model = make_model(architecture)
    result, report = quantized(model, method)
    assert len(report.quantized) == 14
    assert "lm_head" in report.skipped
    assert report.method == method
    assert report.calibration_tokens == 6 * 2 * 24
    assert report.bytes_after == model_bytes(result) < report.bytes_before == model_bytes(model)
    kind = LLMInt8Linear if method == "smoothquant" else QuantizedLinear
    assert all(type(result.get_submodule(name)) is kind for name in report.quantized)
    # Better than knowing nothing: without final norm all logits are equal.
    flat = copy.deepcopy(model)
    flat.model.norm.weight.data.fill_(-1 if architecture == "gemma2" else 0)
    assert divergence(result, model) < divergence(flat, model)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_calibration_on_the_models_own_inputs_beats_round_to_nearest(architecture, method):
    model = make_model(architecture)
    # The texts measured on are the texts calibrated on: that must help.
    calibrated, _ = quantized(model, method, batches(1, count=4))
    nearest = copy.deepcopy(model)
    quantize_model(nearest, INT4)
    assert divergence(calibrated, model) < divergence(nearest, model)


@pytest.mark.parametrize("method", CALIBRATED)
def test_results_are_deterministic_and_depend_on_the_calibration(method):
    model = make_model("llama")
    once, again, other = (
        logits(quantized(model, method, batches(seed))[0], batches(9)[0]) for seed in (0, 0, 5)
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", CALIBRATED)
def test_padding_is_no_calibration(method, side):
    """Other ids at padded positions change nothing, bit for bit."""
    model, results = make_model("gemma2"), []
    for padding in (0, 77):
        texts = []
        for ids in batches(0):
            mask = torch.ones_like(ids)
            mask[1, slice(None, 9) if side == "left" else slice(-9, None)] = 0
            ids = torch.where(mask == 0, padding, ids)
            texts.append({"input_ids": ids, "attention_mask": mask})
        result, report = quantized(model, method, texts)
        assert report.calibration_tokens == 6 * (2 * 24 - 9)
        results.append(codes(result))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_gptq_of_a_block_is_calibrated_on_what_the_quantized_model_gives_it():
    """Hooks on whole forward passes of the half-quantized model stand for the block runner."""
    model, texts = make_model("gemma2"), batches(0)
    result, report = quantized(model, "gptq", texts)
    expected = copy.deepcopy(model)
    order = ("q_proj k_proj v_proj", "o_proj", "gate_proj up_proj", "down_proj")
    for index in range(2):
        for group in order:
            names = [
                next(
                    n for n in report.quantized if n.startswith(f"model.layers.{index}.") and p in n
                )
                for p in group.split()
            ]
            layer = expected.get_submodule(names[0])
            statistics = HessianStatistics(layer.in_features)
            handle = layer.register_forward_pre_hook(
                lambda _, inputs, statistics=statistics: statistics.observe(inputs[0])
            )
            for ids in texts:
                logits(expected, ids)
            handle.remove()
            for name in names:
                weight = expected.get_submodule(name).weight
                quantized_weight = gptq(weight, statistics.hessian, INT4)
                expected.set_submodule(name, QuantizedLinear(quantized_weight))
    assert codes(result).keys() == codes(expected).keys()
    assert all(torch.equal(codes(result)[n], codes(expected)[n]) for n in codes(expected))


def test_block_calls_are_those_of_the_running_model():
    """Masks differ from block to block in Gemma 2: a sliding window in every other one."""
    model, ids = make_model("gemma2"), batches(0)[0]
    blocks = decoder_blocks(model)[1]
    calls = block_calls(model, blocks, model_calls([ids], ids.device))
    seen = []
    for block in blocks:
        block.register_forward_pre_hook(
            lambda _, arguments, keywords: seen.append((arguments, keywords)), with_kwargs=True
        )
    logits(model, ids)
    masks = [call[0].keywords["attention_mask"] for call in calls]
    assert not torch.equal(masks[0], masks[1])
    for call, (_, keywords) in zip(calls, seen, strict=True):
        assert torch.equal(call[0].keywords["attention_mask"], keywords["attention_mask"])
        assert call[0].keywords.keys() == keywords.keys()
    assert torch.equal(calls[0][0].arguments[0], seen[0][0][0])
    assert "forward" not in blocks[0].__dict__


def test_the_head_is_calibrated_with_the_whole_quantized_model():
    model = make_model("qwen2")
    result, report = quantized(model, "gptq", skip=())
    assert "lm_head" in report.quantized
    statistics = HessianStatistics(64)
    result.lm_head.register_forward_pre_hook(lambda _, inputs: statistics.observe(inputs[0]))
    for ids in batches(0):
        logits(result, ids)
    expected = gptq(model.lm_head.weight, statistics.hessian, INT4)
    assert torch.equal(result.lm_head.codes, expected.codes)


@pytest.mark.parametrize("method", CALIBRATED)
def test_a_tied_head_is_quantized_by_choice_and_the_embedding_stays(method):
    model = make_model("llama")
    result, report = quantized(model, method, skip=(), include_tied=True)
    assert "lm_head" in report.quantized
    assert torch.equal(result.model.embed_tokens.weight, model.model.embed_tokens.weight)
    assert result.config.tie_word_embeddings is False


@pytest.mark.parametrize("method", CALIBRATED)
def test_skipped_layers_stay_float_and_are_still_compensated(method):
    model = make_model("llama")
    result, report = quantized(model, method, skip=("lm_head", "k_proj", "down_proj"))
    assert len(report.quantized) == 10
    assert type(result.model.layers[0].self_attn.k_proj) is nn.Linear
    # A consumer left without its scales would cost far more than 4 bits do.
    fine = copy.deepcopy(model)
    scheme = preset("int8")
    quantize_model(
        fine, scheme, method=method, calibration=batches(0), skip=("lm_head", "k_proj", "down_proj")
    )
    coarse = copy.deepcopy(model)
    quantize_model(coarse, preset("int4", group_size=32))
    assert divergence(fine, model) < divergence(coarse, model)


def test_training_mode_and_gradients_are_as_they_were():
    model = make_model("llama").train()
    model.model.layers[1].eval()
    quantize_model(model, INT4, method="gptq", calibration=batches(0))
    assert model.training
    assert model.model.layers[0].self_attn.q_proj.training
    assert not model.model.layers[1].training
    assert not model.model.layers[1].self_attn.q_proj.training
    assert model.model.norm.weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("method", CALIBRATED)
def test_models_of_other_dtypes(method, dtype):
    model = make_model("llama").to(dtype)
    result, _ = quantized(model, method)
    out = logits(result, batches(1)[0])
    assert out.dtype is dtype
    assert bool(out.isfinite().all())


def test_llm_int8_needs_no_calibration():
    model = make_model("llama")
    expected = copy.deepcopy(model)
    report = quantize_model(model, preset("int8"), method="llm-int8", threshold=3.0)
    layer = model.model.layers[0].mlp.up_proj
    assert isinstance(layer, LLMInt8Linear)
    assert layer.threshold == 3.0
    weight = expected.model.layers[0].mlp.up_proj.weight
    assert torch.equal(layer.codes, quantize(weight, preset("int8")).codes)
    assert "by llm-int8" in str(report)


def test_wrong_uses_are_named():
    model, texts = make_model("llama"), batches(0)
    cases = [
        ({"method": "gtpq"}, "no method 'gtpq'; did you mean 'gptq'"),
        ({"method": "gptq"}, "method 'gptq' needs calibration"),
        ({"calibration": texts}, "method 'rtn' takes no calibration"),
        (
            {"method": "gptq", "calibration": texts, "alpha": 1},
            "no option 'alpha'; it has: damping",
        ),
        ({"method": "gptq", "calibration": []}, "calibration holds no batch"),
        ({"method": "awq", "calibration": [texts[0][0]]}, r"token ids of shape \(24,\)"),
        ({"method": "awq", "calibration": [{}]}, "token ids of shape None"),
        (
            {"method": "smoothquant", "calibration": texts},
            r"model\.layers\.0: self_attn\.q_proj: .*8-bit",
        ),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            quantize_model(copy.deepcopy(model), INT4, **arguments)


def test_models_without_plain_blocks_are_refused():
    for model, message in [
        (nn.Sequential(nn.Linear(4, 4)), "Sequential has no nn.ModuleList"),
        (
            nn.ModuleDict({"blocks": nn.ModuleList()}),
            r"no weight matrix left; skipped: none",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            quantize_model(model, INT4, method="gptq", calibration=batches(0))


def test_bad_weights_and_shared_weights_are_found_before_anything_is_changed():
    model = make_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = float("nan")
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj: weight\[3, 4\] is nan"):
        quantize_model(model, INT4, method="gptq", calibration=batches(0))
    assert not codes(model)
    model = make_model("llama")
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj shares its weight with"):
        quantize_model(model, INT4, method="gptq", calibration=batches(0))
