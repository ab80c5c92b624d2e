"""What became of a model's weights: against counts by hand, on optimised and on plain copies."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from default_limits import default_budgets
from infopt_reference.pruning import prune_model
from infopt_reference.quantization import preset, quantize_model
from infopt_reference.weight_matrices import select_weight_matrices
from infopt_suites.gates.memory.changes import with_changes
from infopt_suites.gates.memory.histograms import weight_histograms
from weight_layouts import LAYOUTS, MIXTURES, make_layout

from pytest_infopt import Sample
from pytest_infopt.engines.transformers.footprint import storage_bytes, weight_tensors
from pytest_infopt.measure.weights import WeightChanges, bytes_at, compare_weights
from pytest_infopt.release import ModelSource

REFERENCE = ModelSource("reference", "somewhere", dtype="float32")


def limits(quantization: str, **options: Any) -> dict[str, float]:
    source = ModelSource("x", "somewhere", dtype="float32", quantization=quantization)
    budgets = default_budgets(replace(source, options=options), REFERENCE)
    return {name: budget.limit for name, budget in budgets.items()}


def kept(changes: WeightChanges, quantization: str, **options: Any) -> dict[str, bool]:
    """Which default limits on the weights these changes keep."""
    values, found = changes.values(), limits(quantization, **options)
    verdicts = {"bits_per_weight": lambda value, limit: value <= limit}
    at_least = lambda value, limit: value >= limit  # noqa: E731
    return {
        name: verdicts.get(name, at_least)(values[name], found[name])
        for name in ("changed_share", "bits_per_weight", "sparsity")
        if name in found
    }


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("form", ["int8", "int4", "int3", "nf4", "fp8"])
def test_a_quantized_model_has_changed_and_has_the_bits_that_were_asked_for(
    name: str, form: str
) -> None:
    reference, candidate = make_layout(name), make_layout(name)
    quantize_model(candidate, preset(form))
    changes = compare_weights(reference, candidate)
    assert changes.weights == changes.changed == LAYOUTS[name].weights
    bits = changes.values()["bits_per_weight"]
    assert preset(form).bits < bits < preset(form).bits + 1
    assert "sparsity" not in changes.values()
    assert not changes.unchanged
    assert kept(changes, form) == {"changed_share": True, "bits_per_weight": True}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("sparsity", [0.25, 0.5, "2:4"])
def test_a_pruned_model_has_the_zeros_that_were_asked_for(name: str, sparsity: Any) -> None:
    reference, candidate = make_layout(name), make_layout(name)
    wanted = {"pattern": (2, 4)} if sparsity == "2:4" else {"sparsity": sparsity}
    prune_model(candidate, **wanted)
    changes = compare_weights(reference, candidate)
    assert changes.changed == LAYOUTS[name].weights
    assert changes.values()["sparsity"] == pytest.approx(0.5 if sparsity == "2:4" else sparsity)
    assert changes.values()["bits_per_weight"] == 32
    assert kept(changes, "magnitude", sparsity=sparsity) == {
        "changed_share": True,
        "sparsity": True,
    }


def test_experts_left_alone_break_every_limit_and_are_named() -> None:
    reference = make_layout("mixtral")
    pruned, packed = make_layout("mixtral"), make_layout("mixtral")
    prune_model(pruned, sparsity=0.5, skip=("lm_head", "experts"))
    quantize_model(packed, preset("int8"), skip=("lm_head", "experts"))
    layout = LAYOUTS["mixtral"]
    share = 1 - layout.experts / layout.weights
    for candidate in (pruned, packed):
        changes = compare_weights(reference, candidate)
        assert changes.values()["changed_share"] == pytest.approx(share)
        assert set(changes.unchanged) == {
            f"model.layers.{i}.mlp.experts.{p}"
            for i in (0, 1)
            for p in ("gate_up_proj", "down_proj")
        }
        assert "88.9% of the weights were left as they are, in 4 matrices" in changes.notes()[0]
    assert not any(kept(compare_weights(reference, pruned), "magnitude", sparsity=0.5).values())
    assert not any(kept(compare_weights(reference, packed), "int8").values())
    # What the user leaves alone on purpose counts as nothing.
    asked = compare_weights(reference, packed, skip=("lm_head", "experts"))
    assert asked.values()["changed_share"] == 1


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_copy_in_another_dtype_changed_nothing(name: str) -> None:
    reference = make_layout(name)
    changes = compare_weights(reference, copy.deepcopy(reference).to(torch.bfloat16))
    assert changes.changed == 0
    assert changes.values()["bits_per_weight"] == 16
    assert not changes.notes()  # nothing was to be changed


@pytest.mark.parametrize("name", MIXTURES)
def test_what_is_no_matrix_to_change_is_told_by_kind_and_count(name: str) -> None:
    reference, candidate = make_layout(name), make_layout(name)
    quantize_model(candidate, preset("int8"))
    (note,) = compare_weights(reference, candidate).notes()
    table = reference.get_input_embeddings().weight.numel()
    assert f"Embedding (1; {table:,} weights)" in note
    assert f"lm_head (1; {table:,} weights)" in note
    routers = re.findall(r"\w*Router \((\d+); (\d+) weights", note)
    assert sum(int(weights) for _, weights in routers) == LAYOUTS[name].routers
    layers = [m for m in reference.modules() if "Router" in type(m).__name__]
    assert sum(int(count) for count, _ in routers) == len(layers)


def test_a_stack_of_unknown_use_is_told_by_its_class() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack = torch.nn.Parameter(torch.ones(2, 4, 8))

    def model() -> torch.nn.Module:
        return torch.nn.ModuleDict(
            {"linear": torch.nn.Linear(4, 4), "a": Odd(), "b": Odd()}
        ).requires_grad_(False)

    reference, candidate = model(), model()
    quantize_model(candidate, preset("int8"))
    (note,) = compare_weights(reference, candidate).notes()
    assert note == "left alone, as no matrices to change: Odd (2; 128 weights)"


def test_one_rounded_element_is_a_change() -> None:
    reference = make_layout("llama")
    candidate = copy.deepcopy(reference)
    candidate.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1
    changes = compare_weights(reference, candidate)
    assert changes.changed == 64 * 128


def test_a_candidate_of_other_modules_is_not_judged_but_named() -> None:
    changes = compare_weights(make_layout("llama"), make_layout("gpt2"))
    assert changes.values() == {}
    assert "'model.layers.0.self_attn.q_proj' first" in changes.notes()[0]


def test_biases_of_packed_layers_are_no_bits_of_weights() -> None:
    reference, candidate = make_layout("gpt2"), make_layout("gpt2")
    quantize_model(candidate, preset("int8"))
    rows = 2 * (192 + 64 + 256 + 64)
    assert compare_weights(reference, candidate).nbytes == LAYOUTS["gpt2"].weights + 4 * rows


def test_limits_follow_what_was_asked_for() -> None:
    assert limits("magnitude", sparsity="1:4")["sparsity"] == pytest.approx(0.9 * 0.75)
    assert limits("magnitude")["sparsity"] == pytest.approx(0.9 * 0.5)
    assert limits("int4")["bits_per_weight"] < limits("int4", bits=5)["bits_per_weight"] < 32 / 2
    assert limits("int4", group_size=8)["bits_per_weight"] == pytest.approx(4 + 6 + 3.2)
    assert "bits_per_weight" not in limits("torchao-int4")  # a byte each
    assert not limits("none").keys() & {"changed_share", "bits_per_weight", "sparsity"}
    assert not limits("own:loader").keys() & {"changed_share", "bits_per_weight", "sparsity"}


def test_samples_say_what_was_requested_and_what_is_observed() -> None:
    reference, candidate = make_layout("mixtral"), make_layout("mixtral")
    quantize_model(candidate, preset("int8"), skip=("lm_head", "experts"))
    source = ModelSource("x", "somewhere", quantization="int8", options={"bits": 8})
    changes = compare_weights(reference, candidate)
    sample = with_changes(Sample("x", 1, {"weight_bytes": 1.0}), changes, source)
    weights = sample.details["weights"]
    assert weights["requested"] == {"quantization": "int8", "bits": 8}
    assert weights["observed"]["changed_share"] == sample.values["changed_share"]
    assert weights["left_alone"]["model.layers.0.mlp.experts.down_proj"].startswith("left as it is")
    assert "router" in weights["left_alone"]["model.layers.0.mlp.gate.weight"]
    assert with_changes(sample, None, source) is sample


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_bytes_at_the_limit_on_bits_lie_between_quantized_and_float(name: str, form: str) -> None:
    reference, candidate = make_layout(name), make_layout(name)
    quantize_model(candidate, preset(form))
    whole, kept = (storage_bytes(weight_tensors(m)) for m in (reference, candidate))
    bits = compare_weights(reference, candidate).values()["bits_per_weight"]
    assert bytes_at(bits, reference) == kept  # all else is what it was
    assert bytes_at(32.0, reference) == whole
    assert kept < bytes_at(limits(form)["bits_per_weight"], reference) < whole


def test_a_table_that_a_checkpoint_holds_counts_as_it_is() -> None:
    reference = make_layout("llama")
    before = bytes_at(8.0, reference)
    reference.register_buffer("decays", torch.zeros(1000))
    assert bytes_at(8.0, reference) == before + 4000


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_histograms_have_all_weights_and_those_of_a_copy_have_no_error(name: str) -> None:
    model = make_layout(name)
    weights, errors = weight_histograms(model, copy.deepcopy(model), (), torch.float32)
    assert sum(row[1] for row in weights.rows) == pytest.approx(1, abs=1e-5)
    assert all(before == after for _, before, after in weights.rows)
    assert errors.rows == (("0", 1.0),)


@pytest.mark.parametrize("bits", ["int4", "int8"])
def test_errors_of_rounding_lie_below_half_a_step_and_fill_it(bits: str) -> None:
    """In units of σ: half a step of absmax is max|w| / (2 · qmax), and max|w| / σ is below √n."""
    reference, candidate = make_layout("llama"), make_layout("llama")
    quantize_model(candidate, preset(bits))
    _, errors = weight_histograms(reference, candidate, (), torch.float32)
    matrices = [m.weight.flatten() for m in select_weight_matrices(reference, ()).chosen.values()]
    half = [w.abs().max() / w.std() / (2 * (2 ** (preset(bits).bits - 1) - 1)) for w in matrices]
    starts = [float(start) for start, share in errors.rows if share]
    assert max(starts) <= 1.5 * max(half)  # σ is that of the sampled columns
    assert max(starts) >= min(half) / 10**1.5


def test_pruned_weights_stand_at_zero() -> None:
    reference, candidate = make_layout("llama"), make_layout("llama")
    prune_model(candidate, sparsity=0.5)
    weights, _ = weight_histograms(reference, candidate, (), torch.float32)
    kept = [row for row in weights.rows if row[0] != 0]
    assert len(kept) == len(weights.rows) - 1
    assert all(after <= before for _, before, after in kept)
    assert sum(after for *_, after in kept) < 1


def test_layers_that_take_no_vectors_are_left_out() -> None:
    class Deaf(torch.nn.Module):
        def forward(self, tokens: Any) -> Any:
            raise TypeError("takes ids")

    reference, candidate = make_layout("llama"), make_layout("llama")
    for layer in candidate.model.layers:
        layer.self_attn.q_proj = Deaf()
    weights, _ = weight_histograms(reference, candidate, (), torch.float32)
    all_of_them, _ = weight_histograms(reference, make_layout("llama"), (), torch.float32)
    count = lambda table: int(re.findall(r"of (\d+) matrices", table.notes[0])[0])  # noqa: E731
    assert count(all_of_them) - count(weights) == len(candidate.model.layers)
