"""Loaders of this project's own quantizers and pruners: options, calibration, budgets' widths."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from infopt_reference.quantization import (
    Granularity,
    LLMInt8Linear,
    QuantizedLinear,
    preset,
    quantize_model,
)
from tiny_models import SAMPLE_IDS, VOCABULARY, make_model, make_tokenizer

from pytest_infopt.corpus.calibration import calibration_documents
from pytest_infopt.engines.formats import FORMATS
from pytest_infopt.engines.loaders.reference import scheme_of
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.errors import ConfigurationError
from pytest_infopt.release import ModelSource

CALIBRATED = [name for name, form in FORMATS.items() if form.calibrated and name != "gptqmodel"]
LAYER = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight texts of the tiny tokenizer's words."""
    folder = tmp_path_factory.mktemp("calibration")
    for number in range(8):
        words = random.Random(number).choices(range(VOCABULARY), k=40)
        (folder / f"{number}.txt").write_text(" ".join(f"w{word}" for word in words))
    return folder


def load(path: Path, quantization: str, **options: Any) -> TransformersEngine:
    return load_engine(ModelSource("tiny", str(path), quantization, device="cpu", options=options))


def layer_of(engine: TransformersEngine, name: str = LAYER) -> Any:
    return engine.module.get_submodule(name)


def logits(engine: TransformersEngine) -> torch.Tensor:
    return engine.score(SAMPLE_IDS).logits(0, len(SAMPLE_IDS))


@pytest.mark.parametrize(
    ("quantization", "options", "expected"),
    [
        ("int8", {}, preset("int8")),
        ("int4", {}, preset("int4")),
        ("int4", {"bits": 5, "symmetric": True}, preset("int4", bits=5, symmetric=True)),
        ("int4", {"group_size": 16}, preset("int4", group_size=16)),
        ("int4", {"granularity": "channel"},
         preset("int4", granularity=Granularity.CHANNEL, group_size=None)),
        ("int4", {"granularity": "channel", "axis": 1},
         preset("int4", granularity=Granularity.CHANNEL, group_size=None, axis=1)),
        ("int8", {"granularity": "tensor"}, preset("int8", granularity=Granularity.TENSOR)),
        ("int8", {"group_size": 32},
         preset("int8", granularity=Granularity.GROUP, group_size=32)),
        ("int8", {"granularity": "group"},
         preset("int8", granularity=Granularity.GROUP, group_size=64)),
        ("nf4", {"granularity": "group"}, preset("nf4")),
        ("gptq", {"bits": 3, "group_size": 32}, preset("int3", group_size=32)),
        ("awq", {}, preset("int4")),
        ("smoothquant", {}, preset("int8")),
        ("fp8", {}, preset("fp8")),
    ],
)  # fmt: skip
def test_a_name_and_options_mean_a_scheme(
    quantization: str, options: dict[str, Any], expected: Any
) -> None:
    assert scheme_of(quantization, options) == expected


@pytest.mark.parametrize(
    ("quantization", "options", "message"),
    [
        ("int4", {"bits": 9}, "'int4': bits is 9; give an integer from 2 to 8"),
        ("int4", {"bits": "4"}, "bits is '4'"),
        ("int4", {"granularity": "channle"}, "granularity is 'channle'; give one of"),
        ("int4", {"granularity": "channel", "group_size": 32}, "group_size has no meaning"),
        ("int4", {"skip": ["dwon_proj"]}, "'dwon_proj', which is in no module's path"),
        ("nf4", {"bits": 4}, "option of quantization 'nf4' 'bits'"),
        ("int4", {"damping": 0.1}, "option of quantization 'int4' 'damping'"),
        ("int4", {"calibration": "*.txt"}, "option of quantization 'int4' 'calibration'"),
        ("gptq", {"damping": 2.0}, "damping is 2.0"),
        ("gptq", {"calibration_tokens": 0}, "calibration_tokens is 0; give a whole number"),
        ("magnitude", {"sparsity": "2-4"}, "sparsity is '2-4'; give a share from 0 to 1"),
        ("magnitude", {"sparsity": 1.5}, "1.5"),
        ("wanda", {"sparsity": "2:5"}, "up_proj|q_proj"),
    ],
)
def test_wrong_options_are_the_configurations_fault(
    checkpoints: dict[str, Path], texts: Path, quantization: str, options: Any, message: str
) -> None:
    if FORMATS[quantization].calibrated:
        options = {"calibration": str(texts / "*.txt"), **options}
    with pytest.raises(ConfigurationError, match=message):
        load(checkpoints["llama"], quantization, **options)


@pytest.mark.parametrize("quantization", ["fp8", "fp8-e5m2"])
def test_floats_of_8_bits_take_a_byte_a_weight(
    checkpoints: dict[str, Path], quantization: str
) -> None:
    layer = layer_of(load(checkpoints["llama"], quantization))
    weights = layer.quantized_weight
    assert weights.codes.nbytes == layer.in_features * layer.out_features
    assert weights.scheme == preset(quantization)


@pytest.mark.parametrize("quantization", CALIBRATED)
def test_calibrated_loaders_follow_their_calibration(
    checkpoints: dict[str, Path], texts: Path, quantization: str
) -> None:
    path, files = checkpoints["llama"], str(texts / "*.txt")
    one = load(path, quantization, calibration=files)
    same = load(path, quantization, calibration=files)
    other = load(path, quantization, calibration=files, calibration_tokens=5)
    assert torch.equal(logits(one), logits(same))
    assert not torch.equal(logits(one), logits(other))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    fewer = load(path, quantization, calibration=str(texts / "0.txt"))
    assert not torch.equal(logits(one), logits(fewer))


def test_fingerprints_follow_the_calibration_files(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("w1 w2 w3 w4 w5 w6 w7 w8")
    before = load(checkpoints["llama"], "gptq", calibration=str(tmp_path / "*.txt")).fingerprint
    (tmp_path / "a.txt").write_text("w1 w2 w3 w4 w5 w6 w7 w9")
    after = load(checkpoints["llama"], "gptq", calibration=str(tmp_path / "*.txt")).fingerprint
    assert before != after


def test_a_loaded_gptq_is_the_reference_gptq(checkpoints: dict[str, Path], texts: Path) -> None:
    engine = load(
        checkpoints["llama"],
        "gptq",
        group_size=32,
        act_order=True,
        damping=0.05,
        calibration=str(texts / "*.txt"),
        calibration_tokens=30,
        calibration_documents=4,
    )
    model, tokenizer = make_model("llama"), make_tokenizer()
    options = {"calibration": "*.txt", "calibration_documents": 4}
    batches = [
        torch.tensor([tokenizer.encode(document.text)[:30]])
        for document in calibration_documents(options, texts)
    ]
    scheme = preset("int4", group_size=32)
    quantize_model(model, scheme, method="gptq", calibration=batches, act_order=True, damping=0.05)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([SAMPLE_IDS])).logits[0]
    assert torch.equal(logits(engine), expected)


def test_without_a_tokenizer_nothing_is_calibrated(tmp_path: Path, texts: Path) -> None:
    make_model("llama").save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="calibration takes a tokenizer"):
        load(tmp_path, "gptq", calibration=str(texts / "*.txt"))


def test_methods_on_activations_are_in_their_layers(
    checkpoints: dict[str, Path], texts: Path
) -> None:
    outlier_free = load(checkpoints["llama"], "smoothquant", calibration=str(texts / "*.txt"))
    assert type(layer_of(outlier_free)) is LLMInt8Linear
    llm_int8 = load(checkpoints["llama"], "llm-int8", threshold=2.5)
    assert layer_of(llm_int8).threshold == 2.5
    # Errors are to be compared with what rounding activations costs, not with float32's.
    assert llm_int8.dtype == outlier_free.dtype == "bfloat16"
    weights_alone = load(checkpoints["llama"], "int8")
    assert type(layer_of(weights_alone)) is QuantizedLinear
    assert weights_alone.dtype == "float32"


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
@pytest.mark.parametrize(("sparsity", "zeros"), [(None, 0.5), (0.25, 0.25), ("2:4", 0.5)])
def test_pruned_layers_have_the_zeros_that_were_asked_for(
    checkpoints: dict[str, Path], texts: Path, method: str, sparsity: Any, zeros: float
) -> None:
    options = {} if sparsity is None else {"sparsity": sparsity}
    if method == "wanda":
        options["calibration"] = str(texts / "*.txt")
    engine = load(checkpoints["llama"], method, skip=["down_proj"], **options)
    weight = layer_of(engine).weight
    assert int((weight == 0).sum()) == zeros * weight.numel()
    if sparsity == "2:4":
        assert bool(((weight.view(-1, 4) == 0).sum(1) == 2).all())
    assert bool((layer_of(engine, "model.layers.0.mlp.down_proj").weight != 0).all())


def test_a_quantized_checkpoint_is_not_quantized_again(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(checkpoints["llama"], tmp_path / "copied"))
    config = json.loads((copied / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (copied / "config.json").write_text(json.dumps(config))
    for quantization in ("int4", "magnitude", "torchao-int8"):
        with pytest.raises(ConfigurationError, match=r"is quantized already, by gptq; give the fl"):
            load(copied, quantization)
