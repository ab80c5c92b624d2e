"""Default budgets: the stated anchors, their order, and formats read off without loading."""

from __future__ import annotations

import json
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from default_limits import default_budgets
from infopt_suites.gates.format_losses import LARGE_MODELS, SMALL_MODELS, Anchors
from infopt_suites.gates.quality.limits import default_budgets as quality_limits

from pytest_infopt.configuration.release_file import load_release
from pytest_infopt.engines.files.size import parameters_of
from pytest_infopt.engines.formats import FORMATS
from pytest_infopt.engines.weight_precision import Precision, precision_of
from pytest_infopt.gates.base import BudgetContext
from pytest_infopt.release import ModelSource

ROOT = Path(__file__).parents[2]
REFERENCE = ModelSource("reference", "org/base")
SMALL, BIG = 135_000_000, 8_000_000_000
# What sound implementations lose, in nats: measured on SmolLM2-135M and Gemma 3 270M (the larger of
# the two), and by llama.cpp on Llama 3 8B.
MEASURED_KL = {SMALL: {8: 0.0035, 4: 0.376}, BIG: {8: 0.0014, 4: 0.072}}


def limits(bits: int, parameters: int | None = None) -> tuple[float, float, float]:
    precision = Precision(bits, lossless=False, packed=True, summary="")
    context = BudgetContext(REFERENCE, REFERENCE, precision, parameters=parameters)
    found = quality_limits(context)
    return found["kl_mean"], found["top1_agreement"], found["perplexity_ratio"]


@pytest.mark.parametrize(("parameters", "anchors"), [(SMALL, SMALL_MODELS), (BIG, LARGE_MODELS)])
def test_anchors_are_kept_exactly(parameters: int, anchors: Anchors) -> None:
    for bits, (kl, changed, excess) in anchors.items():
        assert limits(bits, parameters) == pytest.approx((kl, 1 - changed, 1 + excess), rel=1e-12)


@pytest.mark.parametrize("parameters", MEASURED_KL)
def test_sound_implementations_keep_the_defaults_with_room(parameters: int) -> None:
    """A gate needs a factor of about two between truth and limit to decide on few documents; more
    than four would let through what loses as much as one bit less."""
    for bits, measured in MEASURED_KL[parameters].items():
        assert 2 <= limits(bits, parameters)[0] / measured <= 4


def test_the_size_that_is_not_known_is_taken_for_small() -> None:
    assert limits(4) == limits(4, SMALL) != limits(4, BIG)


@pytest.mark.parametrize("parameters", [SMALL, BIG])
def test_fewer_bits_never_have_a_stricter_limit(parameters: int) -> None:
    table = [limits(bits, parameters) for bits in range(16, 1, -1)]
    for wide, narrow in pairwise(table):
        assert wide[0] <= narrow[0]
        assert wide[1] >= narrow[1]
        assert wide[2] <= narrow[2]


@pytest.mark.parametrize("bits", [16, 8, 4, 3])
def test_a_large_model_never_has_a_looser_limit(bits: int) -> None:
    small, large = limits(bits, SMALL), limits(bits, BIG)
    assert (large[0], small[1], large[2]) <= (small[0], large[1], small[2])


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [("int8", 8), ("fp8", 6), ("torchao-float8", 6), ("fp8-e5m2", 5), ("smoothquant", 6)],
)
def test_codes_of_one_size_are_held_to_what_their_values_lose(quantization: str, bits: int) -> None:
    source = ModelSource("candidate", "org/base", quantization=quantization)
    precision = precision_of(source, REFERENCE)
    assert precision.bits == 8
    found = quality_limits(BudgetContext(REFERENCE, source, precision, parameters=SMALL))
    assert found["kl_mean"] == limits(bits, SMALL)[0]


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


def test_what_is_not_meant_to_serve_has_no_limit_on_time() -> None:
    ours = default_budgets(ModelSource("c", "org/base", quantization="int8"), REFERENCE)
    theirs = default_budgets(ModelSource("c", "org/base", quantization="torchao-int8"), REFERENCE)
    assert not {"ttft_ratio", "tpot_ratio"} & set(ours)
    assert theirs["ttft_ratio"].limit == 1.10


def test_the_embedded_release_has_the_formats_own_limits_of_quality(tmp_path: Path) -> None:
    """One source: what a format is held to does not depend on which release names it."""
    release = load_release(tmp_path)
    for candidate in release.candidates:
        defaults = default_budgets(candidate.source, release.reference)
        for name in ("kl_mean", "top1_agreement", "perplexity_ratio"):
            assert candidate.budgets[name].limit == defaults[name].limit


@pytest.mark.parametrize(
    ("stored", "file", "size", "parameters"),
    [
        ("float32", "model.safetensors", 4_000_000, 1_000_000),
        ("bfloat16", "model.safetensors", 4_000_000, 2_000_000),
        ("bfloat16", "m-Q4_0.gguf", 4_500_000, 8_000_000),
        ("bfloat16", "m-f16.gguf", 4_000_000, 2_000_000),
    ],
)
def test_a_models_size_is_read_off_its_files(
    tmp_path: Path, stored: str, file: str, size: int, parameters: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"dtype": stored}))
    with (tmp_path / file).open("wb") as weights:
        weights.truncate(size)
    gguf = file if file.endswith(".gguf") else None
    source = ModelSource("r", str(tmp_path), gguf_file=gguf)
    assert parameters_of(source) == parameters
    assert parameters_of(ModelSource("r", "org/of-a-hub")) is None
    assert parameters_of(ModelSource("r", "embedded:smollm2")) == 134_515_008


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
    assert budgets["kl_mean"].limit == SMALL_MODELS[3][0]
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
