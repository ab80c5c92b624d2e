"""One walk finds the weights of every layout, and what it takes is taken by every technique."""

import copy
import math

import pytest
import torch
from infopt_reference.pruning import prune_model
from infopt_reference.quantization import (
    METHODS,
    convert_qat,
    gptq,
    model_bytes,
    prepare_qat,
    preset,
    quantize,
    quantize_model,
    train_qat,
)
from infopt_reference.quantization.calibration import HessianStatistics
from infopt_reference.weight_matrices import select_weight_matrices
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from weight_layouts import LAYOUTS, MIXTURES, make_layout, token_ids

INT4 = preset("int4", group_size=32)


@torch.no_grad()
def logits(model, seed=1):
    return model(token_ids(seed=seed), use_cache=False).logits


def weights_of(model, names):
    """The number of weights under the names of layers and stacks."""
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    return sum(
        parameters[name].numel() if name in parameters else modules[name].weight.numel()
        for name in names
    )


def scheme_of(method):
    return preset("int8") if method in ("smoothquant", "llm-int8") else INT4


def calibration_of(method):
    return [token_ids(seed=s) for s in range(6)] if METHODS[method].calibrated else None


def optimised(name, method):
    model = make_layout(name)
    report = quantize_model(
        model, scheme_of(method), method=method, calibration=calibration_of(method)
    )
    return model, report


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_weight_is_taken_or_named_with_its_reason(name):
    model, layout = make_layout(name), LAYOUTS[name]
    found = select_weight_matrices(model)
    assert weights_of(model, found.chosen) == layout.weights
    stacks = [key for key, matrix in found.chosen.items() if not matrix.is_layer]
    assert weights_of(model, stacks) == layout.experts
    routers = [key for key, why in found.skipped.items() if "router" in why]
    assert weights_of(model, routers) == layout.routers
    named = {m.key for m in found.chosen.values()} | found.skipped.keys()
    named |= {f"{key}.weight" for key in found.skipped}
    missing = {key for key, p in model.named_parameters() if p.ndim > 1} - named
    assert all("bias" in key for key in missing)
    assert all(found.skipped.values())


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("form", ["int8", "int3", "nf4", "nf4-double", "fp8"])
def test_the_model_computes_with_the_decoded_weights_of_every_matrix(name, form):
    """By hand: each matrix, each expert by itself, [out, in], there and back."""
    scheme, model = preset(form), make_layout(name)
    expected = copy.deepcopy(model)
    for key, parameter in expected.named_parameters():
        experts = key.endswith(("gate_up_proj", "down_proj"))
        layer = parameter.ndim == 2 and key.endswith(".weight") and "embed" not in key
        known = (".wte.", ".wpe.", "router", "mlp.gate.", "lm_head", "conv1d")
        if not experts and (not layer or any(part in key for part in known)):
            continue
        stored = parameter.data
        turned = name == "gpt2" or (name == "gpt_oss" and experts)
        matrices = stored.mT if turned else stored
        rows = matrices.reshape(-1, matrices.shape[-1])
        decoded = quantize(rows, scheme).dequantize().view(matrices.shape)
        parameter.data = decoded.mT.contiguous() if turned else decoded
    report = quantize_model(model, scheme)
    result, wanted = logits(model), logits(expected)
    # Sums of at most 256 products in another order, through two layers.
    assert float((result - wanted).norm() / wanted.norm()) < 256 * torch.finfo(torch.float32).eps
    assert report.bytes_after == model_bytes(model)


@pytest.mark.parametrize("name", LAYOUTS)
def test_bytes_are_those_of_codes_and_constants(name):
    """4 bits a weight, and 3 bytes for each group of 32: nothing of the float weights stays."""
    model, layout = make_layout(name), LAYOUTS[name]
    before = model_bytes(model)
    logits(model)
    report = quantize_model(model, INT4)
    logits(model)  # decodes, and lets go of what it decoded
    groups = sum(
        math.ceil(m.in_features / 32) * m.out_features
        for m in model.modules()
        if hasattr(m, "quantized_weight")
    )
    assert before - model_bytes(model) == 4 * layout.weights - layout.weights // 2 - 3 * groups
    assert report.bytes_after == model_bytes(model)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_every_weight_of_every_layout(name, method):
    model, report = optimised(name, method)
    assert weights_of(make_layout(name), report.quantized) == LAYOUTS[name].weights
    assert not any(key in dict(model.named_parameters()) for key in report.quantized)
    assert bool(logits(model).isfinite().all())
    assert report.rounded.keys() <= set(report.quantized)
    if method == "rtn":
        assert not report.rounded


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_experts_are_calibrated_on_the_tokens_that_choose_them(name, method):
    model, report = optimised(name, method)
    plain = make_layout(name)
    quantize_model(plain, INT4)
    stacks = [key for key in report.quantized if key.endswith(("gate_up_proj", "down_proj"))]
    stacks = [key for key in stacks if "experts." in key and "shared" not in key]
    assert weights_of(make_layout(name), stacks) == LAYOUTS[name].experts
    for key in stacks:
        assert not torch.equal(weight(model, key), weight(plain, key))
        assert "computes the products itself" not in report.rounded.get(key, "")


def weight(model, name):
    owner, _, last = name.rpartition(".")
    return getattr(model.get_submodule(owner), last)


def test_an_expert_is_given_what_a_hand_written_mixture_gives_it():
    """GPTQ of Mixtral's first experts, from hooks and the paper's formula alone."""
    model = make_layout("mixtral")
    result = copy.deepcopy(model)
    texts = [token_ids(seed=s) for s in range(6)]
    quantize_model(result, INT4, method="gptq", calibration=texts)
    # The attention before it is quantized already when the experts are calibrated.
    for part in "qkvo":
        path = f"model.layers.0.self_attn.{part}_proj"
        layer = nn.Linear(*model.get_submodule(path).weight.shape[::-1], bias=False)
        layer.weight.data = result.get_submodule(path).weight
        model.set_submodule(path, layer)
    mixture, seen = model.model.layers[0].mlp, []
    mixture.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].reshape(-1, 64)))
    for ids in texts:
        with torch.no_grad():
            model(ids, use_cache=False)
    tokens = torch.cat(seen)
    scores = (tokens @ mixture.gate.weight.T).softmax(-1)
    chosen = scores.topk(2, dim=-1).indices
    for expert in range(4):
        mine = tokens[(chosen == expert).any(-1)]
        statistics = HessianStatistics(64)
        statistics.observe(mine)
        expected = gptq(
            mixture.experts.gate_up_proj[expert].detach(), statistics.hessian, INT4
        ).dequantize()
        found = weight(result, "model.layers.0.mlp.experts.gate_up_proj")[expert]
        assert float((found != expected).float().mean()) < 0.01  # sums in another order


def test_an_expert_that_no_token_chose_is_rounded_and_named():
    model = make_layout("mixtral")
    router, chosen = model.model.layers[0].mlp.gate, set()
    handle = router.register_forward_hook(
        lambda _, __, output: chosen.update(output[2].unique().tolist())
    )
    texts, plain = [token_ids(1, 1)], copy.deepcopy(model)
    report = quantize_model(model, INT4, method="gptq", calibration=texts)
    handle.remove()
    quantize_model(plain, INT4)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    missed = [expert for expert in range(4) if expert not in chosen]
    assert len(missed) == 2  # of four, the one token chose two
    assert report.rounded[name] == f"no calibration token chose experts {missed}"
    for expert in range(4):
        same = torch.equal(weight(model, name)[expert], weight(plain, name)[expert])
        assert same == (expert in missed)


def test_experts_of_padded_batches_are_rounded_and_named():
    mask = torch.ones(2, 24, dtype=torch.long)
    mask[1, :5] = 0
    model = make_layout("mixtral")
    report = quantize_model(
        model,
        INT4,
        method="gptq",
        calibration=[{"input_ids": token_ids(), "attention_mask": mask}],
    )
    assert {key for key in report.rounded if "experts" in key} == {
        f"model.layers.{i}.mlp.experts.{p}" for i in range(2) for p in ("gate_up_proj", "down_proj")
    }


@pytest.mark.parametrize("method", ["gptq", "awq", "smoothquant"])
def test_blocks_of_several_classes_are_calibrated_in_turn(method):
    model, report = optimised("jamba", method)
    assert weights_of(make_layout("jamba"), report.quantized) == LAYOUTS["jamba"].weights
    assert "model.layers.0.mamba.dt_proj" in report.rounded  # its weight is read, it isn't called
    assert "model.layers.1.self_attn.q_proj" not in report.rounded
    assert bool(logits(model).isfinite().all())


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("plan", [{"sparsity": 0.5}, {"pattern": (2, 4)}])
@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_half_of_the_weights_of_every_matrix_become_zeros(name, plan, method):
    model = make_layout(name)
    batches = [token_ids(seed=s) for s in range(6)]
    report = prune_model(
        model, method=method, calibration=batches if method == "wanda" else None, **plan
    )
    unreached = [key for key in report.skipped if key.endswith("dt_proj")]
    assert bool(unreached) == (method == "wanda" and name in ("mamba", "jamba"))
    left = weights_of(model, unreached)
    assert report.weights == LAYOUTS[name].weights - left
    zeros = sum(int((p == 0).sum()) for key, p in model.named_parameters() if key in report.masks)
    assert zeros == report.zeros == report.weights // 2
    if "pattern" in plan:
        for key, mask in report.masks.items():
            stored_in_out = name == "gpt2" or (name == "gpt_oss" and "experts" in key)
            inputs_last = mask.mT if stored_in_out else mask
            assert set(inputs_last.reshape(-1, 4).sum(-1).tolist()) == {2}


def test_wanda_ranks_each_expert_by_its_own_tokens():
    batches = [token_ids(seed=s) for s in range(6)]
    by_inputs = prune_model(
        make_layout("mixtral"), sparsity=0.5, method="wanda", calibration=batches
    ).masks
    by_size = prune_model(make_layout("mixtral"), sparsity=0.5, scope="row").masks
    key = "model.layers.0.mlp.experts.down_proj"
    assert all(not torch.equal(by_inputs[key][e], by_size[key][e]) for e in range(4))
    assert set((~by_inputs[key]).sum(-1).flatten().tolist()) == {64}


@pytest.mark.parametrize("name", ["mixtral", "gpt2", "gpt_oss", "falcon", "mamba"])
def test_qat_trains_every_matrix_and_converts_to_the_bits_it_computed_with(name):
    model = make_layout(name)
    start = copy.deepcopy(model)
    scheme = preset("int4", group_size=32)
    train_qat(model, [token_ids()], scheme, steps=2, learning_rate=1e-2)
    before = logits(model)
    report = convert_qat(model)
    assert weights_of(start, report.quantized) == LAYOUTS[name].weights
    after = logits(model)
    assert float((after - before).norm() / before.norm()) < 256 * torch.finfo(torch.float32).eps
    plain = copy.deepcopy(start)
    quantize_model(plain, scheme)
    same = [k for k in report.quantized if torch.equal(weight_of(model, k), weight_of(plain, k))]
    assert len(same) < len(report.quantized) / 2


def weight_of(model, name):
    """Of a layer by its path, of a stack by its parameter's name."""
    found = model
    for part in name.split("."):
        found = getattr(found, part)
    return found.weight if isinstance(found, nn.Module) else found


def test_preparing_keeps_parameters_and_their_optimizer():
    model = make_layout("mixtral")
    parameters = {id(p) for p in model.parameters()}
    prepare_qat(model, INT4)
    assert {id(p) for p in model.parameters()} == parameters


def test_a_layer_that_does_more_than_a_product_keeps_its_own_code():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    torch.manual_seed(0)
    model = nn.Sequential(Doubled(32, 8), nn.Linear(8, 8))
    expected = 2 * nn.functional.linear(
        torch.eye(32), quantize(model[0].weight, preset("int8")).dequantize(), model[0].bias
    )
    quantize_model(model, preset("int8"))
    assert torch.equal(model[0](torch.eye(32)), expected)
    assert isinstance(model[0], Doubled)


def test_a_quantized_mixture_moves_between_dtypes_and_copies():
    model = make_layout("mixtral")
    quantize_model(model, INT4)
    experts = model.model.layers[0].mlp.experts
    codes = experts.gate_up_proj_packed.codes.clone()
    wide = copy.deepcopy(model).to(torch.bfloat16)
    moved = wide.model.layers[0].mlp.experts
    assert moved.gate_up_proj.dtype is torch.bfloat16
    packed = moved.gate_up_proj_packed
    assert torch.equal(packed.codes, codes)
    assert torch.equal(packed.stored_scales, experts.gate_up_proj_packed.stored_scales)
    assert experts.gate_up_proj.dtype is torch.float32
    again = make_layout("mixtral")
    quantize_model(again, INT4)
    again.load_state_dict(model.state_dict())
    assert torch.equal(logits(again), logits(model))


def test_a_model_without_any_weight_matrix_is_refused():
    with pytest.raises(ValueError, match=r"no weight matrix left; skipped: 0\.weight: an emb"):
        quantize_model(nn.Sequential(nn.Embedding(4, 4)), INT4)


def test_skip_names_stacks_too():
    model = make_layout("mixtral")
    report = quantize_model(model, INT4, skip=("lm_head", "experts"))
    assert weights_of(make_layout("mixtral"), report.quantized) == (
        LAYOUTS["mixtral"].weights - LAYOUTS["mixtral"].experts
    )
    assert report.skipped["model.layers.0.mlp.experts.down_proj"] == "skip = 'experts'"


class Experts(nn.Module):
    """Two experts whose parameters are stored in one order or the other, which no field says."""

    def __init__(self, hidden, inner, turned, up="gate_up_proj", down="down_proj"):
        super().__init__()
        self.num_experts, self.hidden_size = 2, hidden
        self.up, self.down, self.turned = up, down, turned
        taking, giving = (hidden, inner), (inner, hidden)
        for name, (inputs, outputs) in ((up, taking), (down, giving)):
            shape = (inputs, outputs) if turned else (outputs, inputs)
            sizes = 2.0 ** torch.arange(outputs)
            drawn = torch.randn(2, outputs, inputs) * sizes[:, None]
            setattr(self, name, nn.Parameter((drawn.mT if turned else drawn).view(2, *shape)))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("names", [("gate_up_proj", "down_proj"), ("w1", "w2")])
def test_the_hidden_size_tells_how_experts_are_stored(turned, names):
    torch.manual_seed(0)
    model = nn.Sequential(Experts(8, 12, turned, *names))
    found = select_weight_matrices(model).chosen
    assert [found[f"0.{name}"].layout.transposed for name in names] == [turned, turned]
    assert [found[f"0.{name}"].in_features for name in names] == [8, 12]
    before = copy.deepcopy(model)
    quantize_model(model, preset("int8"))
    for name in names:
        weight = getattr(before[0], name).detach()
        error = (getattr(model[0], name) - weight).abs()
        rows = weight.abs().amax(1 if turned else 2, keepdim=True)
        assert bool((error <= rows / 127 / 2 * (1 + 1e-5)).all())


@pytest.mark.parametrize("shape", [(8, 8), (12, 16)])
def test_experts_that_may_be_stored_either_way_are_refused_by_name(shape):
    model = nn.Sequential(Experts(*shape, turned=False))
    model[0].hidden_size = 8
    with pytest.raises(ValueError, match=r"0\.gate_up_proj: the order .* is_transposed .* skip"):
        select_weight_matrices(model)
    model.append(nn.Linear(4, 4))
    named = select_weight_matrices(model, skip=("gate_up_proj", "down_proj"))
    assert list(named.chosen) == ["1"]
    model[0].is_transposed = True
    assert select_weight_matrices(model).chosen["0.down_proj"].layout.transposed


def test_llama_4_stores_its_experts_inputs_first():
    config = CONFIG_MAPPING["llama4_text"](
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        intermediate_size_mlp=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=2,
        interleave_moe_layer_step=1,
    )
    found = select_weight_matrices(AutoModelForCausalLM.from_config(config)).chosen
    for name, features in (("gate_up_proj", 32), ("down_proj", 48)):
        assert found[f"model.layers.0.feed_forward.experts.{name}"].in_features == features


def tiny_dbrx(inner=48):
    torch.manual_seed(0)
    config = CONFIG_MAPPING["dbrx"](
        vocab_size=64,
        d_model=32,
        n_layers=1,
        n_heads=2,
        max_seq_len=64,
        attn_config={"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        ffn_config={"ffn_hidden_size": inner, "moe_num_experts": 4, "moe_top_k": 2},
    )
    return AutoModelForCausalLM.from_config(config).eval()


DBRX = "transformer.blocks.0.ffn.experts.mlp"


def products_of_dbrx(model, inner=48):
    """What its module multiplies by, each [E, out, in]: x·w1ᵀ, x·v1ᵀ and x·w2, from its source."""
    mlp = model.get_submodule(DBRX)
    stacks = {name: getattr(mlp, name).detach().view(4, inner, 32) for name in ("w1", "v1", "w2")}
    return stacks | {"w2": stacks["w2"].mT}


def test_dbrx_stores_one_stack_inputs_first_in_two_axes():
    model = tiny_dbrx()
    found = select_weight_matrices(model).chosen
    for name, expected in products_of_dbrx(model).items():
        assert torch.equal(found[f"{DBRX}.{name}"].weight, expected)


@pytest.mark.parametrize("way", ["rounded", "in training", "converted"])
def test_rows_of_dbrx_are_those_of_its_products(way):
    model, scheme = tiny_dbrx(), preset("int8")
    before = {name: each.clone() for name, each in products_of_dbrx(model).items()}
    if way == "rounded":
        quantize_model(model, scheme)
    else:
        prepare_qat(model, scheme)
        if way == "converted":
            convert_qat(model)
    for name, after in products_of_dbrx(model).items():
        rows = before[name].abs().amax(2, keepdim=True)
        error = (after - before[name]).abs()
        assert float(error.max()) > 0
        assert bool((error <= rows / 127 / 2 * (1 + 1e-5)).all())
    assert bool(model(token_ids() % 64).logits.isfinite().all())


def test_rows_of_dbrx_are_pruned_by_their_own_inputs():
    model = tiny_dbrx()
    prune_model(model, sparsity=0.25, scope="row")
    for after in products_of_dbrx(model).values():
        zeros = (after == 0).sum(dim=2)
        assert bool((zeros == after.shape[2] // 4).all())


def test_dbrx_of_square_experts_is_refused_by_name():
    with pytest.raises(ValueError, match=rf"{DBRX}\.w1: the order"):
        select_weight_matrices(tiny_dbrx(inner=32))
