"""Modules that are renamed, wrapped or fused are compared all the same; and every number is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from weight_layouts import make_layout, token_ids

from pytest_infopt.measure.modules import Models, ModuleComparison
from pytest_infopt.measure.paired_modules import pair_modules

LAYER = "model.layers.1"


def compared(reference: Any, candidate: Any) -> ModuleComparison:
    inputs = {"input_ids": token_ids(), "use_cache": False, "return_dict": True}
    vocabulary = reference.config.vocab_size
    models = Models(reference, candidate, reference, inputs, torch.float32, vocabulary, str)
    return ModuleComparison(models, 1e-3)


class Fused(nn.Module):
    """Linear layers of one input side by side, whose outputs lie one behind the other."""

    def __init__(self, *layers: Any) -> None:
        super().__init__()
        self.widths = [layer.out_features for layer in layers]
        self.in_features, self.out_features = layers[0].in_features, sum(self.widths)
        weights = torch.cat([layer.weight.data for layer in layers])
        self.weight = nn.Parameter(weights, requires_grad=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(hidden, self.weight)


class FusedMLP(nn.Module):
    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.gate_up_proj = Fused(mlp.gate_proj, mlp.up_proj)
        self.down_proj, self.act_fn = mlp.down_proj, mlp.act_fn

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up_proj(hidden).chunk(2, dim=-1)
        made: torch.Tensor = self.down_proj(self.act_fn(gate) * up)
        return made


class RenamedMLP(nn.Module):
    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.w1, self.w3, self.w2 = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self.activation = mlp.act_fn

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.w2(self.activation(self.w1(hidden)) * self.w3(hidden))
        return made


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


class ByRows(Wrapped):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.inner(row[None]) for row in hidden])


class ByPositions(Wrapped):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.inner(part) for part in hidden.split(5, dim=1)], dim=1)


class PositionsLost(Wrapped):
    """The last part is made of the one before."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        parts = [self.inner(part) for part in hidden.split(5, dim=1)]
        return torch.cat([*parts[:-1], parts[-2][:, -parts[-1].shape[1] :]], dim=1)


class Twice(Wrapped):
    def forward(self, hidden: torch.Tensor) -> Any:
        return self.inner(self.inner(hidden))


ARRANGEMENTS: dict[str, Callable[[Any], nn.Module]] = {
    "fused": FusedMLP,
    "renamed": RenamedMLP,
    "wrapped": Wrapped,
    "wrapped twice": lambda mlp: Wrapped(Wrapped(mlp)),
    "row by row": ByRows,
    "some positions at a time": ByPositions,
}


def arranged(reference: Any, arrangement: str) -> Any:
    candidate = copy.deepcopy(reference)
    for block in candidate.model.layers:
        block.mlp = ARRANGEMENTS[arrangement](block.mlp)
    return candidate


def weights_of(candidate: Any, name: str) -> torch.Tensor:
    """The candidate's part of a matrix of the reference."""
    (pair,) = (p for p in compared_pairs(candidate) if p.name == name)
    weights: torch.Tensor = pair.candidate.weight.data
    return weights if pair.columns is None else weights[pair.columns]


def compared_pairs(candidate: Any) -> list[Any]:
    return list(pair_modules(make_layout("llama"), candidate).pairs.values())


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_all_weights_have_a_partner_in_another_arrangement(arrangement: str) -> None:
    reference = make_layout("llama")
    found = compared(reference, arranged(reference, arrangement))
    assert found.paired.compared_share == 1
    assert not found.accused
    assert not found.constants
    assert not found.undecided


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("part", ["gate_proj", "up_proj", "down_proj"])
def test_a_faulty_part_is_named_in_another_arrangement(arrangement: str, part: str) -> None:
    reference = make_layout("llama")
    candidate, name = arranged(reference, arrangement), f"{LAYER}.mlp.{part}"
    weights_of(candidate, name).mul_(1.05)
    assert [a.module for a in compared(reference, candidate).accused] == [name]


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_what_is_made_of_sound_parts_is_compared_in_another_arrangement(arrangement: str) -> None:
    reference = make_layout("llama")
    candidate = arranged(reference, arrangement)
    candidate.get_submodule(LAYER).mlp.register_forward_hook(lambda m, a, output: 1.05 * output)
    found = compared(reference, candidate)
    assert [accusation.module for accusation in found.accused] == [f"{LAYER}.mlp"]
    fused = "were compared as a whole" in " ".join(found.notes())
    assert fused == (arrangement == "fused")


def make_gemma() -> Any:
    torch.manual_seed(5)
    config = AutoConfig.for_model(
        "gemma2",
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=8,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("kind", "module", "name", "value"),
    [
        ("gemma2", f"{LAYER}.self_attn", "attn_logit_softcapping", 30.0),
        ("gemma2", "model.layers.0.self_attn", "sliding_window", 7),
        ("gemma2", "model.embed_tokens", "embed_scale", torch.tensor(8.01)),
        ("gemma2", "model.norm", "eps", 1e-5),
        ("mixtral", f"{LAYER}.mlp.gate", "top_k", 1),
        ("mixtral", "model.rotary_emb", "attention_scaling", 1.01),
        ("gpt_oss", f"{LAYER}.mlp.experts", "limit", 6.0),
        ("gpt_oss", f"{LAYER}.mlp.experts", "alpha", 1.7),
        ("deepseek_v3", f"{LAYER}.self_attn", "scaling", 0.2),
        ("falcon", "transformer.h.1.self_attention", "inv_norm_factor", 0.26),
        ("mamba", "backbone.layers.1.norm", "variance_epsilon", 1e-4),
    ],
)
def test_a_number_of_another_architecture_is_named(
    kind: str, module: str, name: str, value: Any
) -> None:
    reference = make_gemma() if kind == "gemma2" else make_layout(kind)
    candidate = copy.deepcopy(reference)
    setattr(candidate.get_submodule(module), name, value)
    assert (module, name) in [(c.module, c.name) for c in compared(reference, candidate).constants]


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_a_rotary_base_off_by_a_ten_thousandth_is_named(kind: str) -> None:
    reference = make_layout(kind)
    candidate = copy.deepcopy(reference)
    frequencies = candidate.model.rotary_emb.inv_freq
    exponents = torch.arange(len(frequencies)) / len(frequencies)
    candidate.model.rotary_emb.inv_freq = frequencies * 1.0001**-exponents
    found = compared(reference, candidate).constants
    assert [(c.module, c.name) for c in found] == [("model.rotary_emb", "inv_freq")]


def test_a_training_mode_that_drops_out_is_a_constant() -> None:
    reference = make_layout("falcon")
    candidate = copy.deepcopy(reference)
    attention = candidate.transformer.h[1].self_attention.attention_dropout
    attention.p = 0.1
    attention.train()
    found = {(c.module, c.name) for c in compared(reference, candidate).constants}
    assert found == {
        ("transformer.h.1.self_attention.attention_dropout", name) for name in ("p", "training")
    }


@pytest.mark.parametrize("wrong", [PositionsLost, Twice])
def test_a_module_that_is_called_in_wrong_parts_is_accused(wrong: Callable[..., Any]) -> None:
    reference = make_layout("llama")
    candidate = copy.deepcopy(reference)
    block = candidate.model.layers[1]
    block.mlp = wrong(block.mlp)
    accused = compared(reference, candidate).accused
    assert accused
    assert all(accusation.module.startswith(LAYER) for accusation in accused)
