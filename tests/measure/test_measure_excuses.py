"""Modules that others make up for, where the layer's output does not tell: behind a norm that takes
any scale away, and at a router's near-ties."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from faults import kinds
from faults.models import tiny

from pytest_infopt.measure.modules.comparison import Models, ModuleComparison

RATE = 1e-3
SCALED = {"factor": 1.7}


def compared(reference: Any, candidate: Any) -> ModuleComparison:
    """The candidate's modules in bfloat16, on five rows."""
    ids = torch.randint(3, 128, (5, 48), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "use_cache": False, "return_dict": True}
    plain = narrowed(reference)
    vocabulary = reference.config.vocab_size
    models = Models(reference, candidate, plain, inputs, torch.bfloat16, vocabulary, str)
    return ModuleComparison(models, RATE)


def narrowed(reference: Any) -> Any:
    model = copy.deepcopy(reference).to(torch.bfloat16)
    for name, module in reference.named_modules():
        if hasattr(module, "inv_freq"):
            model.set_submodule(name, copy.deepcopy(module))  # frequencies are float32 in any
    return model


@pytest.fixture(scope="module")
def normed() -> Any:
    """Each layer's attention and MLP end with a norm."""
    return tiny("sliding window", layers=2)


@pytest.mark.parametrize("kind", ["values-scaled", "up-and-down-scaled"])
def test_a_module_around_excuses_what_a_norm_behind_it_hides(normed: Any, kind: str) -> None:
    candidate = narrowed(normed)
    kinds.draw(candidate, kind, options=SCALED if kind == "values-scaled" else {}).stay()
    found = compared(normed, candidate)
    assert not found.accused
    assert found.excused


def test_half_of_the_trick_is_a_fault_behind_a_norm(normed: Any) -> None:
    candidate = narrowed(normed)
    candidate.model.layers[1].self_attn.v_proj.weight.data *= 1.7
    accused = [accusation.module for accusation in compared(normed, candidate).accused]
    assert accused == ["model.layers.1.self_attn.v_proj"]


@pytest.fixture(scope="module")
def routed() -> Any:
    return tiny("experts")


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("layers", [range(4), range(3, 7), range(6, 10)])
def test_tokens_that_a_near_tie_sends_elsewhere_do_not_accuse(
    routed: Any, layers: range, near: bool
) -> None:
    """Where the norms are near 1, a few such tokens err more than all do with the norm changed."""
    reference = copy.deepcopy(routed)
    norms = [f"model.layers.{index}.input_layernorm" for index in layers]
    for norm in map(reference.get_submodule, norms if near else []):
        norm.weight.data = 1 + (norm.weight.data - 1) / 8
    candidate = narrowed(reference)
    for block in (candidate.model.layers[index] for index in layers):
        norm, attention = block.input_layernorm, block.self_attn
        for reader in (attention.q_proj, attention.k_proj, attention.v_proj):
            reader.weight.data *= norm.weight.data
        norm.weight.data.fill_(1)
    found = compared(reference, candidate)
    assert not found.accused
    assert {*norms} <= {accusation.module for accusation in found.excused}


def test_half_of_a_folded_norm_is_a_fault(routed: Any) -> None:
    candidate = narrowed(routed)
    candidate.model.layers[4].input_layernorm.weight.data.fill_(1)
    accused = [accusation.module for accusation in compared(routed, candidate).accused]
    assert accused == ["model.layers.4.input_layernorm"]


@pytest.mark.parametrize("kind", ["expert-scaled", "last-row-wrong", "router-biased"])
def test_what_only_some_tokens_show_is_excused_by_no_other(routed: Any, kind: str) -> None:
    """Most tokens are right to the bit: the usual one errs by nothing, in the candidate's layer and
    hardly in the reference's with the module swapped in."""
    candidate = narrowed(routed)
    fault = kinds.draw(candidate, kind)
    with fault.planted():
        accused = compared(routed, candidate).accused
    assert accused
    assert fault.is_named_by(accused[0].module)
