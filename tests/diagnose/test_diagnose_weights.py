"""A planted fault is named; a format's own loss is told from it; the controls are exact."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import make_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from pytest_infopt.corpus.embedded import embedded_texts
from pytest_infopt.diagnose.subjects import Deadline, OpenEngine, Subjects
from pytest_infopt.diagnose.weights import BROKEN, DEGRADED, SOUND, WeightsDiagnosis
from pytest_infopt.engines.base import able
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.release import ModelSource

LAYERS = 6
TEXTS = [[(37 * i + 5 + j) % 128 for i in range(23)] for j in range(3)]
FORMATS = ("float32", "bfloat16", "int8")
MODULES = (
    "model.embed_tokens",
    "model.layers.0.input_layernorm",
    "model.layers.1.self_attn.o_proj",
    "model.layers.2.self_attn.q_proj",
    "model.layers.3.self_attn.v_proj",
    "model.layers.3.mlp.down_proj",
    "model.layers.5.mlp.gate_proj",
    "model.norm",
    "lm_head",
)


def _model(seed: int = 7) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


MODEL = _model()


def _rounded(model: Any, bits: int) -> Any:
    """Its decoder's matrices on an integer grid with a scale for each row."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            steps = module.weight.detach().abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
            module.weight.data = (module.weight.detach() / steps).round() * steps
    return model


def _pruned(model: Any, sparsity: float) -> Any:
    """Its decoder's matrices without the smallest weights of each row."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            weight = module.weight.detach()
            least = weight.abs().quantile(sparsity, dim=1, keepdim=True)
            module.weight.data = weight * (weight.abs() > least)
    return model


def _subjects(
    candidate: Any, dtype: torch.dtype, seconds: float = 60.0, model: Any = MODEL
) -> Subjects:
    def engine(module: Any, of: torch.dtype) -> Any:
        return TransformersEngine("tiny", module, make_tokenizer(), dtype=of)

    reference = engine(model, torch.float32)
    plain = reference
    if dtype != torch.float32:
        plain = engine(copy.deepcopy(model).to(dtype), dtype)
    return Subjects(reference, engine(candidate.to(dtype), dtype), plain, TEXTS, Deadline(seconds))


def _candidate(form: str) -> tuple[Any, torch.dtype]:
    model = copy.deepcopy(MODEL)
    if form == "int8":
        return _rounded(model, 8), torch.float32
    return model, getattr(torch, form)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_is_five_per_cent_too_large_is_named(form: str, name: str) -> None:
    model, dtype = _candidate(form)
    model.get_submodule(name).weight.data *= 1.05
    subjects = _subjects(model, dtype)
    found = WeightsDiagnosis(subjects)
    assert found.kind == BROKEN
    assert [each.module for each in found.accused] == [name]
    assert found.first is not None
    assert found.first == name
    if form != "int8":  # there the format's own loss is part of what is recovered
        assert found.most is not None
        assert found.most.names == (name,)
        assert found.most.recovered == 1
    layer = subjects.layer_of(name)
    assert (layer is None) == (".layers." not in name)
    assert f": {name}" in found.sentences[0]
    assert (layer is None) or f"in layer {layer}" in found.sentences[0]


@pytest.mark.parametrize("form", FORMATS)
def test_a_sound_format_has_no_module_that_stands_out(form: str) -> None:
    found = WeightsDiagnosis(_subjects(*_candidate(form)))
    assert found.kind == (DEGRADED if form == "int8" else SOUND)
    assert found.accused == []
    assert found.first is None


def test_few_bits_everywhere_are_degraded_and_not_broken() -> None:
    found = WeightsDiagnosis(_subjects(_rounded(copy.deepcopy(MODEL), 4), torch.float32))
    assert found.kind == DEGRADED
    assert any(sentence.startswith("degraded: each of") for sentence in found.sentences)


# Each with the least factor that is seen among so few and such small matrices.
UNIFORM: dict[str, tuple[Callable[[Any], Any], float]] = {
    "3 bits": (lambda model: _rounded(model, 3), 1.5),
    "4 bits": (lambda model: _rounded(model, 4), 1.05),
    "half pruned": (lambda model: _pruned(model, 0.5), 1.05),
    "70 % pruned": (lambda model: _pruned(model, 0.7), 1.5),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("form", UNIFORM)
def test_a_uniform_format_is_degraded_and_a_planted_fault_in_it_is_broken(
    form: str, seed: int
) -> None:
    reference = _model(seed)
    rounded, least = UNIFORM[form]
    candidate = rounded(copy.deepcopy(reference))
    found = WeightsDiagnosis(_subjects(candidate, torch.float32, 0, reference))
    assert found.kind == DEGRADED
    draw = random.Random(seed)
    linear = [n for n, m in candidate.named_modules() if isinstance(m, nn.Linear)]
    for factor in (least, 2.0):
        broken, name = copy.deepcopy(candidate), draw.choice(linear)
        broken.get_submodule(name).weight.data *= factor
        found = WeightsDiagnosis(_subjects(broken, torch.float32, 0, reference))
        assert (found.kind, found.first) == (BROKEN, name)
        assert [each.module for each in found.accused] == [name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantization", "least"),
    [("int3", 1.05), ("magnitude", 1.3), ("int8", 1.05)],  # zeros alone err by a third
)
def test_a_format_of_smollm2_is_degraded_and_a_planted_fault_in_it_is_broken(
    quantization: str, least: float
) -> None:
    source = ModelSource("reference", "embedded:smollm2", dtype="float32")
    engines = [load_engine(replace(source, quantization=q)) for q in ("none", quantization)]
    reference, candidate = (able(engine, OpenEngine) for engine in engines)
    texts = [reference.encode(text)[:32] for _, text in embedded_texts()[:3]]

    def diagnosis() -> WeightsDiagnosis:
        subjects = Subjects(reference, candidate, reference, texts, Deadline(60))
        return WeightsDiagnosis(subjects)

    assert diagnosis().kind == DEGRADED
    draw = random.Random(quantization)
    modules = dict(reference.module.named_modules())
    names = [n for n, m in modules.items() if type(m) is nn.Linear and n != "lm_head"]
    for factor in (least, 2.0):
        name = draw.choice(names)
        hook = candidate.module.get_submodule(name).register_forward_hook(
            lambda module, args, output, by=factor: by * output
        )
        found = diagnosis()
        hook.remove()
        assert (found.kind, found.first) == (BROKEN, name)


def test_attention_that_computes_something_else_from_sound_parts_is_named() -> None:
    model = copy.deepcopy(MODEL)
    model.model.layers[4].self_attn.scaling *= 1.5
    found = WeightsDiagnosis(_subjects(model, torch.float32))
    assert [each.module for each in found.accused] == ["model.layers.4.self_attn"]
    assert found.first is not None
    assert found.first == "model.layers.4.self_attn"
    assert found.most is not None
    assert found.most.names == ("model.layers.4.self_attn",)


@pytest.mark.parametrize("form", FORMATS)
def test_the_controls_of_swaps_are_exact(form: str) -> None:
    model, dtype = _candidate(form)
    model.get_submodule(MODULES[3]).weight.data *= 1.5
    found = WeightsDiagnosis(_subjects(model, dtype))
    assert found.swaps.loss > 0
    assert found.swaps.swapped_for_themselves() == 0
    assert found.swaps.all_swapped().recovered == 1
    assert found.swaps.of([]).recovered == 0
    assert found.swaps.loss == found.swaps.of([]).loss  # nothing is left behind by earlier swaps


def test_the_loss_of_a_layer_is_what_its_swap_recovers() -> None:
    model = copy.deepcopy(MODEL)
    model.get_submodule("model.layers.2.mlp.up_proj").weight.data *= 1.2
    found = WeightsDiagnosis(_subjects(model, torch.float32))
    recovered = {swap.names[0]: swap.recovered for swap in found.layers}
    assert len(recovered) == LAYERS
    assert max(recovered, key=lambda name: recovered[name]) == "model.layers.2"
    rows = {str(row[0]): row for row in found.table().rows}
    assert list(rows) == [f"model.layers.{index}" for index in range(LAYERS)]
    assert rows["model.layers.0"][3] == 0  # bit for bit, before the fault
    assert float(rows["model.layers.2"][3] or 0) > 0


def test_without_time_left_the_profile_alone_is_there_and_says_so() -> None:
    model = copy.deepcopy(MODEL)
    model.get_submodule(MODULES[3]).weight.data *= 1.5
    found = WeightsDiagnosis(_subjects(model, torch.float32, seconds=0))
    assert found.layers == []
    assert found.first is not None
    assert found.first == MODULES[3]
    assert any("time limit" in sentence for sentence in found.sentences)


def test_modules_without_a_partner_are_said_to_be_left_out() -> None:
    model = copy.deepcopy(MODEL)

    class Other(nn.Module):
        """An MLP of another arrangement."""

        def __init__(self, mlp: Any) -> None:
            super().__init__()
            weights = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight], dim=1)
            self.packed = nn.Parameter(weights, requires_grad=False)
            self.last = nn.Parameter(mlp.down_proj.weight, requires_grad=False)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            width = hidden.shape[-1]
            gate, up = hidden @ self.packed[:, :width].T, hidden @ self.packed[:, width:].T
            return (nn.functional.silu(gate) * up) @ self.last.T

    model.model.layers[1].mlp = Other(model.model.layers[1].mlp)
    model.model.layers[1].mlp.last *= 1.1
    found = WeightsDiagnosis(_subjects(model, torch.float32))
    assert [each.module for each in found.accused] == ["model.layers.1.mlp"]
    assert any("no partner" in sentence for sentence in found.sentences)
