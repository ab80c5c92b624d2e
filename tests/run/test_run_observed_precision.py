"""Default limits follow what a loaded candidate's weights are, where nothing told it before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from default_limits import default_budgets

from pytest_infopt.engines.weight_precision import (
    Precision,
    StoredWeights,
    observed_precision,
    precision_of,
)
from pytest_infopt.release import ModelSource
from pytest_infopt.run.exit_status import ExitStatus

LOADERS = """
import torch
from transformers import AutoModelForCausalLM


def plain(request, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(request.files.directory, dtype=dtype)


def bf16(request):
    return plain(request, torch.bfloat16)


def wrong_heads(request):
    model = plain(request)
    with torch.no_grad():
        weight = model.model.layers[0].self_attn.k_proj.weight
        weight.copy_(weight.roll(weight.shape[0] // 2, 0))
    return model


def wrong_rope(request):
    model = plain(request)
    model.model.rotary_emb.inv_freq.mul_(1.5)
    return model


def int8(request):
    from infopt_reference.quantization import preset, quantize_model

    model = plain(request)
    quantize_model(model, preset("int8"))
    return model
"""
SOURCE = ModelSource("mine", "org/model", quantization="mine:load")
REFERENCE = ModelSource("reference", "org/model", dtype="float32")
FLOATS = StoredWeights(1000, 32, 0)


@pytest.fixture
def loaders(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(own_loaders=LOADERS)


def limits_of(document: dict[str, Any]) -> dict[str, Any]:
    return {row["metric"]: row for row in document["gates"] if row["budget"] is not None}


@pytest.mark.parametrize("fault", ["wrong_heads", "wrong_rope"])
def test_a_wrong_float_model_of_ones_own_loader_fails_equivalence(
    gate: Callable[..., pytest.RunResult],
    result: Callable[[], dict[str, Any]],
    loaders: None,
    fault: str,
) -> None:
    run = gate("-k", "equivalence", candidates={"mine": f'quantization = "own_loaders:{fault}"'})
    assert run.ret == ExitStatus.FAILED
    rows = limits_of(result())
    assert rows["logit_error_ratio"]["verdict"] == "FAIL"
    assert "greedy_mismatches" in rows


@pytest.mark.parametrize("load", ["plain", "bf16"])
def test_a_sound_copy_of_ones_own_loader_passes(
    gate: Callable[..., pytest.RunResult],
    result: Callable[[], dict[str, Any]],
    loaders: None,
    load: str,
) -> None:
    run = gate(
        *["-k", "equivalence or quality"],
        candidates={"mine": f'quantization = "own_loaders:{load}"'},
        budgets='top1_agreement = "85 %"',  # random weights have many near-ties
    )
    assert run.ret == ExitStatus.PASSED
    assert limits_of(result())["logit_error_ratio"]["verdict"] == "PASS"


def test_a_quantized_model_of_ones_own_loader_is_held_to_its_bits(
    gate: Callable[..., pytest.RunResult], result: Callable[[], dict[str, Any]], loaders: None
) -> None:
    gate("-k", "quality or equivalence", candidates={"mine": 'quantization = "own_loaders:int8"'})
    rows = limits_of(result())
    assert "logit_error_ratio" not in rows
    assert rows["kl_mean"]["budget"] == pytest.approx(eight_bit_kl())


def eight_bit_kl() -> float:
    planned = ModelSource("int8", "org/model", quantization="int8")
    return default_budgets(planned, REFERENCE)["kl_mean"].limit


def known() -> Iterator[ModelSource]:
    yield ModelSource("a", "org/model", quantization="int4")
    yield ModelSource("b", "org/model", dtype="bfloat16")
    yield ModelSource("c", "org/model", quantization="mine:load", options={"bits": 4})


@pytest.mark.parametrize("source", known(), ids=lambda source: source.name)
def test_what_was_asked_for_stands_whatever_is_seen(source: ModelSource) -> None:
    planned = precision_of(source, REFERENCE)
    assert observed_precision(planned, FLOATS, FLOATS) == planned


@pytest.mark.parametrize(
    ("stored", "bits", "lossless"),
    [
        (FLOATS, 32, True),
        (StoredWeights(1000, 16, 0), 16, True),
        (StoredWeights(210, 16, 800), 8, False),  # 200 floats left alone, 10 scales
        (StoredWeights(220, 32, 400), 4, False),
        (StoredWeights(220, 32, 300), 3, False),
        (StoredWeights(0, 16, 4000), 8, False),  # a byte of a larger container counts as 8 bits
    ],
)
def test_widths_are_read_off_what_is_stored(
    stored: StoredWeights, bits: int, lossless: bool
) -> None:
    planned = precision_of(SOURCE, REFERENCE)
    assert not planned.known
    found: Precision = observed_precision(planned, stored, FLOATS)
    assert (found.bits, found.lossless) == (bits, lossless)
    assert "as loaded" in found.summary
