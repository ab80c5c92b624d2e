"""The modules gate on tiny models: planted faults by kind and format, sound variants, rates."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from infopt_reference.quantization import preset, quantize_model
from scipy import stats
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig
from weight_layouts import LAYOUTS, make_layout

from pytest_infopt.engines.registry import load_engine
from pytest_infopt.measure.modules.comparison import Models, ModuleComparison
from pytest_infopt.measure.modules.envelope import envelope, student_quantile
from pytest_infopt.measure.modules.output_errors import ExactOutput
from pytest_infopt.measure.modules.positions import far_call, rounding_of_angles
from pytest_infopt.release import ModelSource

VOCABULARY, LAYERS, WIDTH, HEAD = 160, 4, 64, 16
RATE = 1e-3
DTYPES = {"bf16": torch.bfloat16}
FORMATS = ("float32", "bf16", "int8", "int4")
Damage = Callable[[Any], object]

_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}


def make(kind: str = "llama") -> Any:
    torch.manual_seed(11)
    configs: dict[str, Any] = {
        "llama": LlamaConfig(**_SHAPE),
        "mixtral": MixtralConfig(**_SHAPE, num_local_experts=4, num_experts_per_tok=2),
    }
    model = AutoModelForCausalLM.from_config(configs[kind], dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:  # ones would make norms alike
            parameter.data = 1 + 0.3 * torch.randn_like(parameter)
    return model


def in_dtype(reference: Any, dtype: torch.dtype) -> Any:
    """A copy as it would be loaded in a dtype: frequencies are float32 in any."""
    model = copy.deepcopy(reference).to(dtype)
    for name, module in reference.named_modules():
        if hasattr(module, "inv_freq"):
            model.set_submodule(name, copy.deepcopy(module))
    return model


def candidate_of(reference: Any, form: str) -> Any:
    if form in DTYPES:
        return in_dtype(reference, DTYPES[form])
    candidate = copy.deepcopy(reference)
    if form != "float32":
        quantize_model(candidate, preset(form))
    return candidate


def batch(rows: int = 4, tokens: int = 24) -> dict[str, Any]:
    ids = torch.randint(0, 128, (rows, tokens), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[0, :9] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "use_cache": False,
        "return_dict": True,
    }


def compared(reference: Any, candidate: Any, form: str = "float32") -> ModuleComparison:
    dtype = DTYPES.get(form, torch.float32)
    plain = in_dtype(reference, dtype) if form in DTYPES else reference
    decode = lambda ids: f"w{ids[0]}"  # noqa: E731
    known = inspect.signature(reference.forward).parameters
    inputs = {name: value for name, value in batch().items() if name in known}
    vocabulary = reference.config.vocab_size
    models = Models(reference, candidate, plain, inputs, dtype, vocabulary, decode)
    return ModuleComparison(models, RATE)


def scaled(module: nn.Module, factor: float) -> None:
    module.register_forward_hook(lambda m, args, output: output * factor)


def patched(module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    module.register_forward_hook(lambda m, args, output: change(output))


def layer(model: Any, index: int = 2) -> Any:
    return model.model.layers[index]


def zeroed(value: torch.Tensor, part: slice) -> torch.Tensor:
    value = value.clone()
    value[..., part] = 0
    return value


def leaking(output: torch.Tensor) -> torch.Tensor:
    return torch.cat([output[:1], output[1:] + 0.3 * output[:1]])


def bumped_logit(module: Any, args: Any, output: Any) -> Any:
    output.logits[..., 77] += 5
    return output


def swapped_rows(output: torch.Tensor, ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    output = output.clone()
    output[ids == 30], output[ids == 140] = table[140], table[30]
    return output


def swap_rare(model: Any) -> None:
    model.model.embed_tokens.register_forward_hook(
        lambda module, args, output: swapped_rows(output, args[0], module.weight)
    )


def head_without_mask(module: Any, args: Any, kwargs: Any) -> Any:
    return args, {**kwargs, "attention_mask": None}


P = "model.layers.2"
FAULTS: dict[str, tuple[Damage, str]] = {
    "query twice": (lambda m: scaled(layer(m).self_attn.q_proj, 2.0), f"{P}.self_attn.q_proj"),
    "key head dead": (
        lambda m: patched(layer(m).self_attn.k_proj, lambda o: zeroed(o, slice(0, HEAD))),
        f"{P}.self_attn.k_proj",
    ),
    "up negated": (lambda m: scaled(layer(m).mlp.up_proj, -1.0), f"{P}.mlp.up_proj"),
    "down late": (
        lambda m: patched(
            layer(m).mlp.down_proj, lambda o: torch.cat([o[:, :12], 2.5 * o[:, 12:]], 1)
        ),
        f"{P}.mlp.down_proj",
    ),
    "norm": (lambda m: scaled(layer(m).input_layernorm, 1.05), f"{P}.input_layernorm"),
    "leak": (lambda m: patched(layer(m).mlp, leaking), f"{P}.mlp"),
    "mask": (
        lambda m: layer(m).self_attn.register_forward_pre_hook(head_without_mask, with_kwargs=True),
        f"{P}.self_attn",
    ),
    "residual": (lambda m: scaled(layer(m), 0.9), P),
    "logit": (lambda m: m.register_forward_hook(bumped_logit), ""),
    "head": (
        lambda m: patched(m.lm_head, lambda o: o + 5 * torch.eye(VOCABULARY, dtype=o.dtype)[7]),
        "lm_head",
    ),
    "rare rows": (swap_rare, "model.embed_tokens"),
    "final norm": (lambda m: scaled(m.model.norm, 1.05), "model.norm"),
}


@pytest.fixture(scope="module")
def reference() -> Any:
    return make()


@pytest.fixture(scope="module")
def far_reference() -> Any:
    """A model that is made for long texts."""
    model = make()
    model.config.max_position_embeddings = 100_000
    return model


@pytest.mark.parametrize("form", FORMATS)
def test_a_sound_candidate_has_no_module_accused(reference: Any, form: str) -> None:
    found = compared(reference, candidate_of(reference, form), form)
    assert not found.accused
    assert not found.constants
    assert not found.undecided
    assert found.paired.compared_share == 1


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", FAULTS)
def test_the_faulty_module_and_no_other_is_accused(reference: Any, name: str, form: str) -> None:
    damage, module = FAULTS[name]
    candidate = candidate_of(reference, form)
    damage(candidate)
    found = compared(reference, candidate, form)
    assert [accusation.module for accusation in found.accused] == [module]
    assert not found.undecided
    assert any(module in note for note in found.notes())


@pytest.mark.parametrize("form", FORMATS)
def test_a_rotary_base_off_by_a_ten_thousandth_is_a_constant(reference: Any, form: str) -> None:
    candidate = candidate_of(reference, form)
    frequencies = candidate.model.rotary_emb.inv_freq
    exponents = torch.arange(len(frequencies)) / len(frequencies)
    candidate.model.rotary_emb.inv_freq = frequencies * 1.0001 ** -exponents.to(frequencies.dtype)
    names = [(c.module, c.name) for c in compared(reference, candidate, form).constants]
    assert names == [("model.rotary_emb", "inv_freq")]


def rounded_positions(positions: torch.Tensor) -> torch.Tensor:
    """As of a float with five bits: 32 numbers beyond each power of two."""
    step = 2.0 ** (positions.clamp(min=1).float().log2().floor() - 5).clamp(min=0)
    return ((positions / step).round() * step).long()


def positions_of_rope(model: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    def changed(module: Any, args: Any, kwargs: Any) -> Any:
        positions = kwargs.pop("position_ids") if "position_ids" in kwargs else args[1]
        return (args[0], change(positions)), kwargs

    model.model.rotary_emb.register_forward_pre_hook(changed, with_kwargs=True)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "change",
    [rounded_positions, lambda p: p.clamp(max=200), lambda p: p % 200],
    ids=["rounded", "clamped", "restarted"],
)
def test_positions_that_are_wrong_beyond_the_batch_are_the_rotary_embeddings(
    far_reference: Any, change: Callable[[torch.Tensor], torch.Tensor], form: str
) -> None:
    positions = batch()["position_ids"]
    assert torch.equal(change(positions), positions)  # the batch does not show it
    candidate = candidate_of(far_reference, form)
    positions_of_rope(candidate, change)
    found = compared(far_reference, candidate, form)
    assert [accusation.module for accusation in found.accused] == ["model.rotary_emb"]


@pytest.mark.parametrize("form", FORMATS)
def test_angles_that_are_rounded_less_are_no_fault_at_any_position(
    far_reference: Any, form: str
) -> None:
    """At position 100,000 rounding an angle to float32 shows in the third decimal."""
    candidate = candidate_of(far_reference, form)
    rope = candidate.model.rotary_emb
    frequencies = far_reference.model.rotary_emb.inv_freq.double()

    def tables(x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        angles = position_ids[..., None].double() * frequencies
        angles = torch.cat([angles, angles], -1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    rope.forward = tables
    assert not compared(far_reference, candidate, form).accused


class ShiftedTable(nn.Module):
    """Positions are looked up, two further on, which is added in place, as XGLM's are."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(float(rows))[:, None].repeat(1, 4))

    def forward(self, position_ids: torch.Tensor) -> Any:
        position_ids += 2
        return self.table[position_ids]


def test_far_positions_fit_a_table_that_adds_to_them_in_place() -> None:
    last, table = 499, ShiftedTable(502)
    near = ((torch.arange(24)[None],), {})
    call = far_call(table, near, last)
    assert call is not None
    (positions,), _ = call
    assert positions.min() == 0
    assert positions.max() == last - 1
    before = positions.clone()
    found = rounding_of_angles(table, call)
    assert found is not None
    assert torch.equal(positions, before)
    assert torch.equal(found, before[..., None] * 2.0**-23 * torch.ones(4))
    assert far_call(nn.Linear(2, 2), near, last) is None
    assert far_call(table, ((torch.zeros(3),), {}), last) is None
    assert far_call(table, near, 20) is None


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        ("model.layers.1.input_layernorm", "variance_epsilon", 1e-3),
        ("model.layers.1.self_attn", "scaling", 0.2),
        ("model.layers.1.self_attn", "layer_idx", 0),
    ],
)
def test_a_number_that_differs_is_named(
    reference: Any, module: str, name: str, value: float
) -> None:
    candidate = copy.deepcopy(reference)
    setattr(candidate.get_submodule(module), name, value)
    constants = compared(reference, candidate).constants
    assert [(c.module, c.name) for c in constants] == [(module, name)]


# Sound variants


def fold_norms(model: Any) -> None:
    for block in model.model.layers:
        for norm, layers in (
            (block.input_layernorm, [getattr(block.self_attn, f"{n}_proj") for n in "qkv"]),
            (block.post_attention_layernorm, [block.mlp.gate_proj, block.mlp.up_proj]),
        ):
            for linear in layers:
                linear.weight.data *= norm.weight.data
            norm.weight.data.fill_(1)


def move_scales(model: Any) -> None:
    mlp = layer(model).mlp
    scales = torch.linspace(0.2, 5, mlp.down_proj.in_features)
    mlp.up_proj.weight.data *= scales[:, None]
    mlp.down_proj.weight.data /= scales


def scale_queries(model: Any) -> None:
    attention = layer(model).self_attn
    attention.q_proj.weight.data *= 3
    attention.k_proj.weight.data /= 3


def permute_heads(model: Any) -> None:
    attention = layer(model).self_attn
    rows = torch.arange(4 * HEAD).view(4, HEAD)[[2, 3, 0, 1]].flatten()
    few = torch.arange(2 * HEAD).view(2, HEAD)[[1, 0]].flatten()
    attention.q_proj.weight.data = attention.q_proj.weight.data[rows]
    attention.k_proj.weight.data = attention.k_proj.weight.data[few]
    attention.v_proj.weight.data = attention.v_proj.weight.data[few]
    attention.o_proj.weight.data = attention.o_proj.weight.data[:, rows]


def fold_scaling(model: Any) -> None:
    attention = layer(model).self_attn
    attention.q_proj.weight.data *= attention.scaling
    attention.scaling = 1.0


VARIANTS = {
    v.__name__: v for v in (fold_norms, move_scales, scale_queries, permute_heads, fold_scaling)
}


@pytest.mark.parametrize("form", ["float32", "bf16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_what_others_make_up_for_is_excused(reference: Any, name: str, form: str) -> None:
    candidate = copy.deepcopy(reference)
    VARIANTS[name](candidate)
    found = compared(reference, candidate_of(candidate, form), form)
    assert not found.accused
    assert not found.constants
    assert found.excused
    assert any("make up for" in note for note in found.notes())


@pytest.mark.parametrize("couples_rows", [False, True])
def test_no_token_is_judged_alone_where_rows_are_coupled(
    reference: Any, couples_rows: bool
) -> None:
    """As under LLM.int8(), whose outliers' channels are those of the whole pass."""
    candidate = candidate_of(reference, "int8")
    name = f"{P}.mlp.gate_proj"
    weight = reference.get_submodule(name).weight
    inputs = []
    handle = reference.get_submodule(name).register_forward_hook(
        lambda m, a, o: inputs.append(a[0])
    )
    with torch.no_grad():
        reference(**batch())
    handle.remove()
    threshold = 0.75 * float(inputs[0].abs().max())

    def outliers(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        if float(args[0].abs().max()) <= threshold:
            return output
        error = output - nn.functional.linear(args[0], weight)
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        return output + noise * error.square().mean().sqrt()

    candidate.get_submodule(name).register_forward_hook(outliers)
    models = Models(
        reference,
        candidate,
        reference,
        batch(),
        torch.float32,
        VOCABULARY,
        str,
        couples_rows=couples_rows,
    )
    found = [accusation.module for accusation in ModuleComparison(models, RATE).accused]
    assert found == ([] if couples_rows else [name])


@pytest.mark.parametrize("constant", [-8.0, 3.0, 100.0])
def test_a_constant_added_to_all_logits_is_no_fault(reference: Any, constant: float) -> None:
    candidate = copy.deepcopy(reference)

    def added(module: Any, args: Any, output: Any) -> Any:
        output.logits = output.logits + constant
        return output

    candidate.register_forward_hook(added)
    assert not compared(reference, candidate).accused


def test_plain_modules_may_be_narrower_than_the_candidate(reference: Any) -> None:
    """Kernels that round activations to bfloat16 in a float32 model are held to bfloat16."""
    candidate = copy.deepcopy(reference)
    fold_norms(candidate)
    models = Models(
        reference,
        candidate,
        in_dtype(reference, torch.bfloat16),
        batch(),
        torch.float32,
        VOCABULARY,
        str,
    )
    found = ModuleComparison(models, RATE)
    assert not found.accused
    assert found.excused


def test_other_attention_kernels_are_no_fault(reference: Any) -> None:
    candidate = copy.deepcopy(reference)
    candidate.set_attn_implementation("eager")
    assert not compared(reference, candidate).accused


def test_half_of_a_trick_is_a_fault(reference: Any) -> None:
    candidate = copy.deepcopy(reference)
    layer(candidate).self_attn.q_proj.weight.data *= 3
    assert [a.module for a in compared(reference, candidate).accused] == [f"{P}.self_attn.q_proj"]


def test_a_rotated_residual_stream_is_not_compared(reference: Any) -> None:
    reference = copy.deepcopy(reference)
    fold_norms(reference)  # rotations commute with norms of equal scales alone
    final = reference.model.norm.weight.data.clone()
    reference.lm_head.weight.data *= final
    reference.model.norm.weight.data.fill_(1)
    candidate = copy.deepcopy(reference)
    rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH, dtype=torch.float64)).Q.float()
    candidate.model.embed_tokens.weight.data @= rotation
    candidate.lm_head.weight.data @= rotation
    for block in candidate.model.layers:
        attention, mlp = block.self_attn, block.mlp
        for linear in (
            attention.q_proj,
            attention.k_proj,
            attention.v_proj,
            mlp.gate_proj,
            mlp.up_proj,
        ):
            linear.weight.data @= rotation
        for linear in (attention.o_proj, mlp.down_proj):
            linear.weight.data = rotation.T @ linear.weight.data
    assert "another basis" in compared(reference, candidate).undecided


# Architectures


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_no_module_of_another_architecture_is_accused(name: str, form: str) -> None:
    reference = make_layout(name)
    found = compared(reference, candidate_of(reference, form), form)
    assert [str(accusation) for accusation in found.accused] == []
    assert not found.constants
    assert not found.undecided
    assert not found.leaves.failed


# Mixtures of experts


@pytest.mark.parametrize("form", FORMATS)
def test_one_expert_of_a_stack_is_named(form: str) -> None:
    reference = make("mixtral")
    assert not compared(reference, candidate_of(reference, form), form).accused
    damaged = copy.deepcopy(reference)
    damaged.model.layers[1].mlp.experts.down_proj.data[3] *= 1.5
    found = compared(reference, candidate_of(damaged, form), form)
    assert [a.module for a in found.accused] == ["model.layers.1.mlp.experts.3"]


def test_permuted_experts_are_excused() -> None:
    reference = make("mixtral")
    candidate = copy.deepcopy(reference)
    moe, order = candidate.model.layers[1].mlp, [2, 0, 3, 1]
    moe.gate.weight.data = moe.gate.weight.data[order]
    moe.experts.gate_up_proj.data = moe.experts.gate_up_proj.data[order]
    moe.experts.down_proj.data = moe.experts.down_proj.data[order]
    found = compared(reference, candidate)
    assert not found.accused
    assert found.excused


# The statistics


@pytest.mark.parametrize("rate", [1e-2, 1e-4, 1e-7])
@pytest.mark.parametrize("degrees", [3.0, 5.7, 24.0])
def test_quantiles_are_students(rate: float, degrees: float) -> None:
    assert student_quantile(rate, degrees) == pytest.approx(stats.t.isf(rate, degrees), rel=1e-4)


@pytest.mark.parametrize("n", [8, 15, 30])
def test_a_sound_sibling_leaves_the_envelope_at_its_rate(n: int) -> None:
    draws, rate = np.random.default_rng(5), 0.01
    trials = 10_000
    outside = 0
    for _ in range(trials):
        found = envelope(list(draws.normal(size=n)), rate)
        outside += draws.normal() > found.location + found.reach
    assert stats.binom.sf(outside - 1, trials, rate) > 1e-3 or outside / trials < 1.3 * rate


def test_three_faulty_siblings_of_ten_hardly_move_the_envelope() -> None:
    draws = np.random.default_rng(6).normal(size=10)
    clean = envelope(list(draws), 1e-3)
    dirty = envelope([*draws[:7], 1e6, 1e6, 1e6], 1e-3)
    assert dirty.reach < 5 * clean.reach


def test_figures_of_a_scaled_output() -> None:
    x, weight = torch.randn(50, 32), torch.randn(16, 32)
    y = x @ weight.T
    found = ExactOutput(y, x).errors(1.05 * y)
    assert found.slope == pytest.approx(0.05, rel=1e-4)
    assert found.error == pytest.approx(0.05, rel=1e-4)
    assert found.slope_error < 1e-6
    assert ExactOutput(y, x).errors(y).identical


def test_figures_do_not_follow_one_large_token() -> None:
    x, weight = torch.randn(50, 32), torch.randn(16, 32)
    x[0] *= 1000
    y = x @ weight.T
    found = ExactOutput(y, x).errors(y * torch.tensor([1.0] + [1.1] * 49)[:, None])
    assert found.slope == pytest.approx(0.1, abs=0.01)


# SmolLM2


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_a_linear_layer_of_smollm2_scaled_by_a_twentieth_is_ranked_first(form: str) -> None:
    dtype = "bfloat16" if form in DTYPES else "float32"
    source = ModelSource("reference", "embedded:smollm2", dtype="float32")
    reference = load_engine(source).module
    quantization = form if form in ("int8", "int4") else "none"
    candidate = load_engine(replace(source, dtype=dtype, quantization=quantization)).module
    draw = random.Random(form)
    names = [n for n, m in reference.named_modules() if type(m) is nn.Linear and n != "lm_head"]
    for name in draw.sample(names, 3):
        hook = candidate.get_submodule(name).register_forward_hook(lambda m, a, o: 1.05 * o)
        found = compared(reference, candidate, form)
        hook.remove()
        assert found.accused[0].module == name
    assert not compared(reference, candidate, form).accused
