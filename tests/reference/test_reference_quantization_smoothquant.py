"""Smoothing, which preserves functions, and SmoothQuant, which chooses the scales."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.quantization import smooth, smoothing_groups, smoothquant_scales
from infopt_reference.quantization.layerwise import (
    CalibratedModule,
    block_calls,
    decoder_blocks,
    model_calls,
)
from tiny_models import make_model
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

FEATURES = 12


class Block(nn.Module):
    """A norm that three layers read, one of them fused."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm
        self.first = nn.Linear(FEATURES, 5)
        self.second = nn.Linear(FEATURES, 36, bias=False)

    def forward(self, x):
        x = self.norm(x)
        return torch.cat([self.first(x), self.second(x)], dim=-1)


def norms():
    torch.manual_seed(0)
    made = {
        "layer norm": nn.LayerNorm(FEATURES),
        "rms norm": nn.RMSNorm(FEATURES),
        "llama": LlamaRMSNorm(FEATURES),
        "gemma": Gemma2RMSNorm(FEATURES),
    }
    for norm in made.values():
        for parameter in norm.parameters():
            parameter.data.uniform_(0.5, 2)
    return made


@pytest.mark.parametrize("name", norms())
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
@torch.no_grad()
def test_smoothing_a_norm_preserves_the_function(name, seed):
    generator = torch.Generator().manual_seed(seed)
    block = Block(norms()[name]).double()
    x = torch.randn(7, FEATURES, generator=generator, dtype=torch.float64)
    scales = torch.rand(FEATURES, generator=generator, dtype=torch.float64) * 10 + 0.01
    before, norm_before = block(x), block.norm(x)
    smooth(block.norm, [block.first, block.second], scales)
    # Norms of transformers compute in float32 whatever they are given.
    eps = torch.finfo(torch.float32 if name in ("llama", "gemma") else torch.float64).eps
    size = (block.norm(x) * scales).abs().amax() * max(
        float((layer.weight / scales).abs().sum(1).max()) for layer in (block.first, block.second)
    )
    assert float((block(x) - before).abs().max()) <= 4 * (FEATURES + 4) * eps * float(size)
    torch.testing.assert_close(
        block.norm(x) * scales, norm_before, rtol=16 * eps, atol=16 * eps * float(norm_before.max())
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_powers_of_two_preserve_every_bit(dtype):
    torch.manual_seed(1)
    producer, consumer = nn.Linear(8, FEATURES).to(dtype), nn.Linear(FEATURES, 5).to(dtype)
    x, scales = torch.randn(7, 8, dtype=dtype), 2.0 ** torch.randint(-3, 4, (FEATURES,))
    before = consumer(producer(x))
    smooth(producer, [consumer], scales)
    assert torch.equal(consumer(producer(x)), before)


def test_a_consumer_named_twice_is_scaled_once():
    producer, consumer = nn.Linear(8, FEATURES), nn.Linear(FEATURES, 5)
    expected = consumer.weight * 2
    smooth(producer, [consumer, consumer], torch.full((FEATURES,), 2.0))
    assert torch.equal(consumer.weight, expected)


def test_what_cannot_be_smoothed_is_refused_before_anything_changes():
    block, ones = Block(nn.LayerNorm(FEATURES)), torch.ones(FEATURES)
    state = copy.deepcopy(block.state_dict())
    consumers = [block.first, block.second]
    for bad in (0.0, -1.0, float("inf"), float("nan")):
        scales = ones.clone()
        scales[4] = bad
        with pytest.raises(ValueError, match=r"scales"):
            smooth(block.norm, consumers, scales)
    with pytest.raises(ValueError, match=r"takes 12 features, there are 11 scales"):
        smooth(nn.LayerNorm(11), consumers, ones[:11])
    with pytest.raises(ValueError, match=r"weight of shape \(12,\); 11 scales"):
        smooth(block.norm, consumers, ones[:11])
    with pytest.raises(ValueError, match="PReLU is no norm"):
        smooth(nn.PReLU(FEATURES), consumers, ones)
    block.half()
    with pytest.raises(ValueError, match="the smoothed weight"):
        smooth(block.norm, consumers, ones * 1e6)
    assert all(torch.equal(v, state[k].half()) for k, v in block.state_dict().items())


def first_block(architecture):
    model = make_model(architecture)
    _, blocks = decoder_blocks(model)
    calls = model_calls([torch.arange(40).view(2, 20)], torch.device("cpu"))
    return CalibratedModule(blocks[0], block_calls(model, blocks, calls)[0])


@pytest.mark.parametrize(
    ("architecture", "before_mlp"),
    [
        ("llama", "post_attention_layernorm"),
        ("qwen2", "post_attention_layernorm"),
        ("gemma2", "pre_feedforward_layernorm"),
    ],
)
def test_groups_of_a_block_are_found_by_what_is_given_the_norms_output(architecture, before_mlp):
    groups = {g.producer: g.consumers for g in smoothing_groups(first_block(architecture))}
    assert groups == {
        "input_layernorm": tuple(f"self_attn.{p}_proj" for p in "qkv"),
        before_mlp: ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.up_proj": ("mlp.down_proj",),  # v_proj → o_proj does not fit: heads share values
    }


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2"])
def test_smoothing_every_group_preserves_a_blocks_function(architecture):
    block = first_block(architecture)
    before, x = block.run(block.calls[0]), block.calls[0].arguments[0]
    for group in smoothing_groups(block):
        consumers = [block.module.get_submodule(name) for name in group.consumers]
        scales = torch.logspace(-1, 1, consumers[0].in_features)
        smooth(block.module.get_submodule(group.producer), consumers, scales)
    change = (block.run(block.calls[0]) - before).norm() / (before - x).norm()
    # A dozen float32 operations on sums of 128 products.
    assert float(change) <= 12 * 128 * torch.finfo(torch.float32).eps


def test_a_block_without_linear_layers_behind_norms_is_refused():
    block = first_block("llama")
    for name in ("input_layernorm", "post_attention_layernorm"):
        block.module.set_submodule(name, nn.Identity())
    with pytest.raises(ValueError, match="LlamaDecoderLayer: no norm whose output linear layers"):
        smoothing_groups(block)


def test_a_hidden_reader_of_the_activation_leaves_its_group_out():
    block = first_block("llama")
    plain = block.module.mlp.forward
    router = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    block.module.mlp.router = nn.Parameter(router)
    forward = lambda x: plain(x) + x @ block.module.mlp.router  # noqa: E731
    block.module.mlp.forward = forward
    producers = [group.producer for group in smoothing_groups(block)]
    assert producers == ["input_layernorm", "mlp.up_proj"]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), alpha=st.floats(0, 1))
def test_scales_balance_activations_and_weights_as_alpha_says(seed, alpha):
    generator = torch.Generator().manual_seed(seed)
    max_abs = torch.rand(FEATURES, generator=generator).double() * 100 + 0.01
    layers = [torch.randn(m, FEATURES, generator=generator) for m in (3, 5)]
    scales = smoothquant_scales(layers, max_abs, alpha=alpha)
    largest = torch.cat(layers).double().abs().amax(0)
    # What is left on each side: both (max|x|·max|w|) to the power of its share.
    product = max_abs * largest
    torch.testing.assert_close(max_abs / scales, product ** (1 - alpha))
    torch.testing.assert_close(largest * scales, product**alpha)


def test_dead_features_and_columns_have_finite_positive_scales():
    max_abs, weight = torch.rand(FEATURES), torch.randn(4, FEATURES)
    max_abs[2] = 0
    weight[:, 5] = 0
    max_abs[7] = weight[0, 7] = 0
    weight[:, 7] = 0
    for alpha in (0.0, 0.5, 1.0):
        scales = smoothquant_scales([weight], max_abs, alpha=alpha)
        assert bool((scales.isfinite() & (scales > 0)).all())


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"alpha is 1\.2"):
        smoothquant_scales([torch.ones(2, 3)], torch.ones(3), alpha=1.2)
    with pytest.raises(ValueError, match=r"weight has shape \(2, 4\)"):
        smoothquant_scales([torch.ones(2, 4)], torch.ones(3))
