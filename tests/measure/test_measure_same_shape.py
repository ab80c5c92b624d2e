"""Passes of one shape, bit for bit: what lets rows see each other is found at any size, and sound
models are not accused."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from default_limits import default_budgets
from infopt_reference.quantization import preset, quantize_model
from infopt_suites.gates.equivalence.prompt_passes import PromptPasses
from infopt_suites.gates.kv_cache.ways import measure_kv_prompt
from measure_fakes import seeded_ids
from tiny_models import CONFIGS, VOCABULARY, cache_in, make_model, make_tokenizer
from weight_layouts import make_layout

from pytest_infopt.engines.formats import FORMATS
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.measure import SameShapeComparison, shapes_follow_tokens
from pytest_infopt.release import ModelSource

IDS = seeded_ids("same shape", 12, VOCABULARY)
LONG = seeded_ids("same shape", 30, VOCABULARY)  # rows beside others are its beginnings
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
Damage = Callable[[Any], None]


def engine_of(module: Any, dtype: torch.dtype = torch.float32) -> TransformersEngine:
    return TransformersEngine("tiny", module.to(dtype), make_tokenizer(), dtype=dtype)


def compared(
    engine: TransformersEngine,
    control: TransformersEngine | None = None,
    ends: bool = True,
    ids: list[int] = IDS,
) -> SameShapeComparison[PromptPasses]:
    def passes(of: TransformersEngine) -> PromptPasses:
        return PromptPasses(of, ids, padded_ends=ends)

    controls = None if control is None else lambda: passes(control)
    found = SameShapeComparison(passes(engine), controls)
    found.add(PromptPasses.repeated_pairs, same_tokens=True)
    found.add(PromptPasses.same_shape_pairs)
    return found


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_sound_model_has_the_same_bits(architecture: str, dtype: torch.dtype, ends: bool) -> None:
    found = compared(engine_of(make_model(architecture), dtype), ends=ends)
    assert found.total == 0
    assert not found.notes


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_a_quantized_model_has_the_same_bits(implementation: str, name: str) -> None:
    module = make_model("llama")
    module.set_attn_implementation(implementation)
    quantize_model(module, preset(name))
    assert compared(engine_of(module)).total == 0


def hooked(change: Callable[[torch.Tensor], torch.Tensor], part: str = "mlp") -> Damage:
    """The output [B, T, D] of the first layer's MLP, changed."""

    def damage(module: Any) -> None:
        layer = module.model.layers[0].get_submodule(part)
        layer.register_forward_hook(lambda m, inputs, output: change(output))

    return damage


def leak(share: float, source: int, target: int | slice) -> Damage:
    """A share of one row's output is added to others'."""

    def change(output: torch.Tensor) -> torch.Tensor:
        if len(output) == 1:
            return output
        changed = output.clone()
        changed[target] += share * output[source]
        return changed

    return hooked(change)


def one_scale_for_the_batch(output: torch.Tensor) -> torch.Tensor:
    scale = output.abs().amax() / 127
    return (output / scale).round() * scale


def last_row_is_off(output: torch.Tensor) -> torch.Tensor:
    changed = output.clone()
    if len(output) > 1:
        changed[-1] *= 1.001
    return changed


def later_tokens_show(output: torch.Tensor) -> torch.Tensor:
    return output + 1e-3 * output.mean(dim=1, keepdim=True)


FAULTS: dict[str, tuple[Damage, str]] = {
    "a third of the first row leaks": (leak(1 / 3, 0, slice(1, None)), "other neighbours"),
    "a thousandth of the last row leaks into the first": (leak(1e-3, -1, 0), "one prompt at both"),
    "a short row leaks into the row behind it": (leak(0.1, 1, 2), "other neighbours"),
    "a row between leaks into the short one": (leak(0.1, 2, 1), "other neighbours"),
    "a scale for the batch": (hooked(one_scale_for_the_batch), "other neighbours"),
    "the last row's own fault": (hooked(last_row_is_off), "one prompt at both ends"),
    "later tokens show": (hooked(later_tokens_show), "other tokens from"),
    "the newest token shows": (
        hooked(lambda output: output + 1e-3 * output[:, -1:], "self_attn.o_proj"),
        "other tokens from",
    ),
    "dropout is left on": (
        hooked(lambda output: torch.nn.functional.dropout(output, 0.01)),
        "the same pass again",
    ),
    "noise": (
        hooked(lambda output: output * (1 + 1e-6 * torch.randn_like(output))),
        "the same pass again",
    ),
}


@pytest.mark.parametrize("ids", [IDS, LONG], ids=len)
@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("name", FAULTS)
def test_what_lets_rows_see_each_other_is_found(name: str, ends: bool, ids: list[int]) -> None:
    damage, route = FAULTS[name]
    module = make_model("llama")
    damage(module)
    found = compared(engine_of(module), engine_of(make_model("llama")), ends, ids)
    assert any(key.startswith(route) and count for key, count in found.differences.items())
    assert any(note.startswith(route) for note in found.notes)


def test_what_the_reference_does_too_is_not_the_candidates() -> None:
    module = make_model("llama")
    hooked(one_scale_for_the_batch)(module)
    found = compared(engine_of(copy.deepcopy(module)), engine_of(module))
    assert found.total == 0
    assert any("the reference's own weights have other bits, too" in note for note in found.notes)


def test_more_than_the_reference_does_is_the_candidates() -> None:
    reference, candidate = make_model("llama"), make_model("llama")
    leak(1e-5, 0, slice(1, None))(reference)
    leak(1 / 3, 0, slice(1, None))(candidate)
    assert compared(engine_of(candidate), engine_of(reference)).total > 0


# Models whose inner shapes follow the tokens, and formats whose rows depend on each other


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_shares_of_experts_follow_the_tokens(name: str, implementation: str) -> None:
    module = make_layout(name)
    module.set_experts_implementation(implementation)
    assert shapes_follow_tokens(engine_of(module), IDS)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_shapes_of_a_dense_model_do_not(architecture: str) -> None:
    assert not shapes_follow_tokens(engine_of(make_model(architecture)), IDS)


@pytest.mark.parametrize("name", FORMATS)
def test_only_formats_that_couple_rows_have_no_limit_on_bits(name: str) -> None:
    reference = ModelSource("reference", "m", dtype="float32")
    limits = default_budgets(ModelSource("c", "m", quantization=name), reference)
    exact = {limit for limit in limits if limit.endswith("same_shape_differences")}
    coupled = name in ("llm-int8", "bitsandbytes-int8")
    assert len(exact) == (0 if coupled else 3)
    assert {"batch_error_ratio", "kv_error_ratio"} <= limits.keys()


def test_outliers_over_all_rows_are_what_couples_them() -> None:
    """LLM.int8() takes a feature out for all rows where one of them has an outlier there."""
    module = make_model("llama")
    quantize_model(module, preset("int8"), method="llm-int8", threshold=1.0)
    assert compared(engine_of(module)).total > 0


# Through the cache


def kv_differences(damage: Damage) -> dict[str, int]:
    sound, module = make_model("llama"), make_model("llama")
    damage(module)
    oracle = engine_of(make_model("llama"), torch.float64).full_logits(IDS)
    sample = measure_kv_prompt(
        engine_of(module), oracle, engine_of(sound).full_logits(IDS), IDS, "p"
    )
    assert not sample.details["left_out"]
    differences: dict[str, int] = sample.details["same_shape"]
    assert sample.values["kv_same_shape_differences"] == sum(differences.values())
    return differences


def taken_back_tokens_stay(module: Any) -> None:
    """What is cropped leaves a trace in the entry before it, as a slot that is written over."""
    plain = module.forward

    @functools.wraps(plain)  # the engine reads the signature
    def forward(**inputs: Any) -> Any:
        output = plain(**inputs)
        cache = cache_in(output)
        if cache is not None and not hasattr(cache, "whole_crop"):
            cache.whole_crop = cache.crop

            def crop(count: int) -> None:
                for layer in cache.layers:
                    layer.keys[:, :, 0] += 1e-3 * layer.keys[:, :, -1]
                cache.whole_crop(count)

            cache.crop = crop
        return output

    module.forward = forward


@pytest.mark.parametrize(
    ("damage", "route"),
    [
        (leak(1e-3, 0, slice(1, None)), "a cache row beside others"),
        (leak(1e-3, -1, slice(0, -1)), "a cache row beside others"),
        (hooked(later_tokens_show), "the same chunks, other tokens behind"),
        (taken_back_tokens_stay, "other tokens taken back"),
    ],
)
def test_what_shows_through_the_cache_is_found(damage: Damage, route: str) -> None:
    differences = kv_differences(damage)
    assert differences[route] > 0


def test_a_sound_cache_has_the_same_bits() -> None:
    assert kv_differences(lambda module: None) == {
        "the same chunks, other tokens behind": 0,
        "a cache row beside others": 0,
        "other tokens taken back": 0,
    }
