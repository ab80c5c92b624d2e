"""Default budgets: the stated anchors, their order, and formats read off without loading."""

from __future__ import annotations

import json
import math
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from default_limits import default_budgets
from infopt_suites.gates.quality.limits import default_budgets as quality_limits

from pytest_infopt.engines.formats import FORMATS
from pytest_infopt.engines.weight_precision import Precision, precision_of
from pytest_infopt.gates.base import BudgetContext
from pytest_infopt.release import ModelSource

ROOT = Path(__file__).parents[2]
REFERENCE = ModelSource("reference", "org/base")
ANCHORS = {8: (0.001, 0.99, 1.005), 5: (0.01, 0.95, 1.015), 3: (0.1, 0.85, 1.10)}


def limits(bits: int) -> tuple[float, float, float]:
    precision = Precision(bits, lossless=False, packed=True, summary="")
    found = quality_limits(BudgetContext(REFERENCE, REFERENCE, precision))
    return found["kl_mean"], found["top1_agreement"], found["perplexity_ratio"]


@pytest.mark.parametrize("bits", ANCHORS)
def test_anchors_are_kept_exactly(bits: int) -> None:
    assert limits(bits) == pytest.approx(ANCHORS[bits], rel=1e-12)


def test_four_bits_are_the_geometric_mean_of_the_neighbours() -> None:
    kl, top1, ratio = limits(4)
    # Limits are rounded to two significant digits: at most 5 % off for a leading 1, less above.
    assert kl == pytest.approx(math.sqrt(0.01 * 0.1), rel=0.05)
    assert 1 - top1 == pytest.approx(math.sqrt(0.05 * 0.15), rel=0.05)
    assert ratio - 1 == pytest.approx(math.sqrt(0.015 * 0.10), rel=0.05)


def test_fewer_bits_never_have_a_stricter_limit() -> None:
    table = [limits(bits) for bits in range(16, 1, -1)]
    for wide, narrow in pairwise(table):
        assert wide[0] <= narrow[0]
        assert wide[1] >= narrow[1]
        assert wide[2] <= narrow[2]


def test_lossless_formats_alone_are_held_to_the_references_tokens() -> None:
    lossless = default_budgets(ModelSource("c", "org/base", dtype="bfloat16"), REFERENCE)
    quantized = default_budgets(ModelSource("c", "org/base", quantization="int8"), REFERENCE)
    assert {"logit_error_ratio", "greedy_mismatches"} <= set(lossless)
    assert not {"logit_error_ratio", "greedy_mismatches"} & set(quantized)
    for budgets in (lossless, quantized):
        assert budgets["cached_error_ratio"].limit == 2
        assert budgets["kv_prediction_error"].limit == 0


def test_latency_margin_by_device() -> None:
    for device, limit in {"cpu": 1.10, "auto": 1.10, "cuda": 1.05, "cuda:3": 1.05}.items():
        budgets = default_budgets(ModelSource("c", "org/base", device=device), REFERENCE)
        assert budgets["ttft_ratio"].limit == budgets["tpot_ratio"].limit == limit


def test_weight_limits_pass_packed_weights_and_catch_none() -> None:
    """Models with a large unquantized share fit; models left unquantized do not."""
    for name, bits in {"int8": 8, "int4": 4, "int3": 3}.items():
        budget = default_budgets(ModelSource("c", "m", quantization=name), REFERENCE)[
            "weight_bytes"
        ]
        assert budget.relative
        for unquantized in (0.13, 0.21, 0.28):  # Llama 8B, SmolLM2-135M, Qwen2.5-0.5B
            for group in (32, 128):
                packed = unquantized + (1 - unquantized) * (bits + 16 / group) / 16
                assert packed <= budget.limit < 1


def test_dtypes_set_the_weight_limit_of_unquantized_models() -> None:
    reference = ModelSource("reference", "m", dtype="float32")
    half = default_budgets(ModelSource("c", "m", dtype="bfloat16"), reference)
    assert half["weight_bytes"].limit == 0.5
    same = default_budgets(ModelSource("c", "m", dtype="float32"), reference)
    assert (same["weight_bytes"].limit, same["kl_mean"].limit) == (1.0, 0.001)


@pytest.mark.parametrize(
    ("config", "bits", "lossless"),
    [
        ({"dtype": "float32"}, 16, True),  # the reference may be a 16-bit one
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, 3, False),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, 4, False),
        ({"quantization_config": {"load_in_8bit": True}}, 8, False),
        ({"quantization_config": {"load_in_8bit": False, "load_in_4bit": True}}, 4, False),
        ({"quantization_config": {"quant_method": "fp8"}}, 8, False),
        ({"quantization_config": {"quant_method": "new"}}, 8, False),
        (
            {"quantization_config": {"config_groups": {"group_0": {"weights": {"num_bits": 4}}}}},
            4,
            False,
        ),
    ],
)
def test_format_of_a_checkpoint(
    tmp_path: Path, config: dict[str, object], bits: int, lossless: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    precision = precision_of(ModelSource("c", str(tmp_path)), REFERENCE)
    assert (precision.bits, precision.lossless) == (bits, lossless)
    same = precision_of(ModelSource("c", str(tmp_path)), ModelSource("r", str(tmp_path)))
    assert same.lossless  # whatever it is, it loses nothing against itself


@pytest.mark.parametrize(
    ("name", "bits", "lossless"),
    [
        ("Model-7B-Q4_K_M.gguf", 4, False),
        ("model.Q8_0.gguf", 8, False),
        ("model-IQ3_XXS.gguf", 3, False),
        ("Qwen2.5-q5_1.gguf", 5, False),
        ("model-f16.gguf", 16, True),
        ("model-BF16.gguf", 16, True),
        ("model.gguf", 8, False),
    ],
)
def test_format_of_a_gguf_file(name: str, bits: int, lossless: bool) -> None:
    source = ModelSource("c", "org/other", quantization="gguf", gguf_file=name)
    precision = precision_of(source, REFERENCE)
    assert (precision.bits, precision.lossless) == (bits, lossless)
    assert ("weight_bytes" in default_budgets(source, REFERENCE)) is lossless


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_an_option_bits_sets_the_width_that_budgets_follow(bits: int) -> None:
    source = ModelSource("c", "org/base", quantization="gptq", options={"bits": bits})
    assert precision_of(source, REFERENCE).bits == bits
    assert default_budgets(source, REFERENCE)["kl_mean"].limit == limits(bits)[0]


@pytest.mark.parametrize("bits", [0, 16, "3", True, 2.0])
def test_bits_that_no_loader_takes_change_no_budget(bits: object) -> None:
    source = ModelSource("c", "org/base", quantization="gptq", options={"bits": bits})
    assert precision_of(source, REFERENCE).bits == 4


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_pruned_models_are_held_to_three_bits_and_to_no_size(method: str) -> None:
    budgets = default_budgets(ModelSource("c", "org/base", quantization=method), REFERENCE)
    assert budgets["kl_mean"].limit == ANCHORS[3][0]
    assert "weight_bytes" not in budgets  # zeros are stored
    assert "greedy_mismatches" not in budgets


def test_a_format_whose_library_is_missing_names_its_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find(name: str) -> None:
        if "." in name:
            raise ModuleNotFoundError(name)  # as for the part of a package that is not there

    monkeypatch.setattr("pytest_infopt.engines.formats.find_spec", find)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {name: form.missing() for name, form in FORMATS.items() if form.module}
    for name, why in needed.items():
        assert why is not None, name
        extra = re.search(r"pytest-infopt\[([\w-]+)\]", why)
        assert extra, why
        assert extra[1] in project["optional-dependencies"], why
    assert FORMATS["gptq"].missing() is None
