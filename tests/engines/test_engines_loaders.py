"""From a source to an engine: each loader, and each way in which loading goes wrong."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import SAMPLE_IDS, VOCABULARY, make_model, make_tokenizer

from pytest_infopt.engines.base import Capability
from pytest_infopt.engines.formats import FORMATS
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.engines.transformers.footprint import storage_bytes, weight_tensors
from pytest_infopt.errors import ConfigurationError, ModelLoadError
from pytest_infopt.release import ModelSource

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


def source(path: Path, **fields: Any) -> ModelSource:
    return ModelSource("tiny", str(path), device="cpu", **fields)


@pytest.fixture
def copied(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints["qwen2"], tmp_path / "qwen2"))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "qwen2"])
def test_a_loaded_engine_scores_as_the_model_that_was_saved(
    checkpoints: dict[str, Path], architecture: str
) -> None:
    engine = load_engine(source(checkpoints[architecture]))
    with torch.no_grad():
        expected = make_model(architecture)(input_ids=torch.tensor([SAMPLE_IDS])).logits[0]
    # Not bit for bit: weights mapped from a file may be aligned otherwise, and take another kernel.
    logits = engine.score(SAMPLE_IDS).logits(0, len(SAMPLE_IDS))
    rounding = 2 * 4 * 128 * torch.finfo(torch.float32).eps * float(expected.abs().max())
    assert float((logits - expected).abs().max()) <= rounding
    assert (engine.name, engine.dtype, engine.device) == ("tiny", "float32", "cpu")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_dtype_is_the_dtype_of_weights_and_logits(
    checkpoints: dict[str, Path], dtype: str
) -> None:
    engine = load_engine(source(checkpoints["qwen2"], dtype=dtype))
    assert engine.dtype == dtype
    assert {p.dtype for p in engine.module.parameters()} == {getattr(torch, dtype)}
    assert engine.score(SAMPLE_IDS).logits(0, 3).dtype is getattr(torch, dtype)


def test_auto_dtype_is_what_the_checkpoint_declares(tmp_path: Path) -> None:
    make_model("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_engine(source(tmp_path)).dtype == "bfloat16"
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": "float8_e4m3fn"}))
    with pytest.raises(ConfigurationError, match=r"stored in float8_e4m3fn.*set dtype"):
        load_engine(source(tmp_path))


def test_fingerprints_tell_weights_and_options_apart(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(checkpoints["llama"], tmp_path / "elsewhere"))
    first = load_engine(source(checkpoints["llama"]))
    same = load_engine(ModelSource("another name", str(copied), device="cpu"))
    assert same.fingerprint == first.fingerprint
    assert same.tokenizer_fingerprint == first.tokenizer_fingerprint
    assert same.encode("w5 w6 w127") == [5, 6, 127]
    assert load_engine(source(copied, dtype="bfloat16")).fingerprint != first.fingerprint
    assert load_engine(source(copied, quantization="int8")).fingerprint != first.fingerprint
    make_tokenizer(words=100).save_pretrained(copied)
    other = load_engine(source(copied))
    assert other.tokenizer_fingerprint != first.tokenizer_fingerprint
    assert other.fingerprint == first.fingerprint


@pytest.mark.parametrize("quantization", ["int8", "int4", "int3", "nf4", "nf4-double", "fp4"])
def test_reference_quantizers_shrink_the_model_and_keep_it_running(
    checkpoints: dict[str, Path], quantization: str
) -> None:
    options = {} if quantization == "int8" else {"group_size": 32}
    engine = load_engine(source(checkpoints["qwen2"], quantization=quantization, options=options))
    original = load_engine(source(checkpoints["qwen2"]))
    bits = FORMATS[quantization].bits
    assert bits is not None
    linear = 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 128)  # weights of the linear layers
    saved = original.memory().weight_bytes - engine.memory().weight_bytes
    # Codes take `bits` a weight; scales and zero points at most 32 bits and 8 for every 32 weights.
    assert linear * (32 - bits - 40 / 32) / 8 <= saved <= linear * (32 - bits) / 8
    logits = engine.score(SAMPLE_IDS).logits(0, len(SAMPLE_IDS))
    assert not torch.equal(logits, original.score(SAMPLE_IDS).logits(0, len(SAMPLE_IDS)))


def test_skipped_layers_stay_as_they_are(checkpoints: dict[str, Path]) -> None:
    skipping = source(checkpoints["llama"], quantization="int8", options={"skip": ["down_proj"]})
    layer = load_engine(skipping).module.model.layers[0].mlp
    assert type(layer.down_proj) is torch.nn.Linear
    assert type(layer.up_proj) is not torch.nn.Linear


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["int8", "nf4", "fp4"])
def test_bitsandbytes_runs_and_its_constants_are_weighed(
    checkpoints: dict[str, Path], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        engine = load_engine(source(checkpoints["qwen2"], quantization=f"bitsandbytes-{kind}"))
        engine.score(SAMPLE_IDS).logits(0, len(SAMPLE_IDS))
    assert [record.message for record in caplog.records] == []
    # what bitsandbytes rounds to on a CPU, whatever comes in
    assert engine.dtype == ("float16" if kind == "int8" else "bfloat16")
    module = engine.module
    head = module.lm_head.weight.nbytes + module.model.embed_tokens.weight.nbytes
    small = sum(
        p.nbytes for name, p in module.named_parameters() if "norm" in name or "bias" in name
    )
    linear = 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 128)
    codes = linear if kind == "int8" else linear // 2
    constants = engine.memory().weight_bytes - head - small - codes
    assert 0 < constants <= linear / 8  # absmax of rows or blocks of 64: present, and small


@needs_bitsandbytes
def test_bitsandbytes_options_reach_the_library(checkpoints: dict[str, Path]) -> None:
    def config_of(**fields: Any) -> Any:
        return load_engine(source(checkpoints["qwen2"], **fields)).module.config.quantization_config

    assert config_of(quantization="bitsandbytes-int8").llm_int8_threshold == 6.0
    higher = config_of(quantization="bitsandbytes-int8", options={"threshold": 7})
    assert higher.llm_int8_threshold == 7.0
    four = config_of(quantization="bitsandbytes-nf4", dtype="bfloat16")
    assert four.bnb_4bit_use_double_quant
    assert four.bnb_4bit_compute_dtype is torch.bfloat16
    assert four.bnb_4bit_quant_type == "nf4"
    plain = config_of(quantization="bitsandbytes-fp4", options={"double_quantization": False})
    assert not plain.bnb_4bit_use_double_quant
    with pytest.raises(ConfigurationError, match="no float64"):
        config_of(quantization="bitsandbytes-nf4", dtype="float64")


def test_a_missing_library_names_the_extra(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelLoadError, match=r"pip install 'pytest-infopt\[bitsandbytes\]'"):
        load_engine(source(checkpoints["qwen2"], quantization="bitsandbytes-nf4"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"quantization": "bitsandbyte-nf4"},
            "quantization 'bitsandbyte-nf4'; did you mean bitsan",
        ),
        ({"dtype": "float31"}, "dtype 'float31'; did you mean float"),
        ({"options": {"skipp": []}, "quantization": "int8"}, "'skipp'; did you mean skip"),
        ({"options": {"skip": []}}, "option of quantization 'none' 'skip'"),
        ({"quantization": "gguf"}, "has quantization 'gguf' and no gguf_file"),
    ],
)
def test_configuration_mistakes_name_the_nearest(
    checkpoints: dict[str, Path], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_engine(source(checkpoints["llama"], **fields))


def test_devices_that_are_not_there(checkpoints: dict[str, Path]) -> None:
    path = str(checkpoints["llama"])
    with pytest.raises(ConfigurationError, match="device 'gpu'"):
        load_engine(ModelSource("tiny", path, device="gpu"))
    beyond = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ModelLoadError, match=f"'{beyond}' and torch sees"):
        load_engine(ModelSource("tiny", path, device=beyond))


def test_wrong_paths_name_the_path(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=f"{tmp_path}/none does not exist"):
        load_engine(source(tmp_path / "none"))
    hub = ModelSource("tiny", "no-such-organisation/no-such-model", local_files_only=True)
    with pytest.raises(ModelLoadError, match="no-such-model' is no directory here"):
        load_engine(hub)


def test_pickles_and_truncation_stop_before_loading(copied: Path) -> None:
    weights = copied / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(ModelLoadError, match=r"model\.safetensors is truncated"):
        load_engine(source(copied))
    weights.unlink()
    torch.save({}, copied / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="pickled"):
        load_engine(source(copied))


def test_missing_tensors_are_an_error_and_not_random_numbers(copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lacks 1 tensors .*layers\.1\.mlp\.up_proj"):
        load_engine(source(copied))


def test_a_tensor_of_another_shape_is_a_load_error(copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    tensors["lm_head.weight"] = torch.zeros(VOCABULARY + 1, 64)
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lm_head.* first: \(129, 64\) in place of \(128"):
        load_engine(source(copied))


def test_unknown_architecture_and_own_code_are_load_errors(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"model_type": "unheard-of"}))
    with pytest.raises(ModelLoadError, match="unheard-of"):
        load_engine(source(copied))
    marker = copied / "ran"
    (copied / "code.py").write_text(f"open({str(marker)!r}, 'w')\n")
    mapped = {"model_type": "unheard-of", "auto_map": {"AutoConfig": "code.C"}}
    (copied / "config.json").write_text(json.dumps(config | mapped))
    with pytest.raises(ModelLoadError, match="trust_remote_code"):
        load_engine(source(copied))
    assert not marker.exists()


def test_without_tokenizer_files_the_engine_has_none(tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path)
    engine = load_engine(source(tmp_path))
    assert engine.tokenizer_fingerprint == "none"
    with pytest.raises(ModelLoadError, match="no tokenizer"):
        engine.encode("w1")


def test_a_broken_tokenizer_names_the_directory(copied: Path) -> None:
    (copied / "tokenizer.json").write_text("{")
    with pytest.raises(ModelLoadError, match=f"the tokenizer in {copied}"):
        load_engine(source(copied))


def test_gguf_files_are_checked_first(copied: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"'x\.gguf' does not exist in .*no GGUF file at all"):
        load_engine(source(copied, gguf_file="x.gguf"))
    (copied / "x.gguf").write_bytes(b"GGML and more")
    with pytest.raises(ModelLoadError, match="does not begin with 'GGUF'"):
        load_engine(source(copied, gguf_file="x.gguf"))
    with pytest.raises(ModelLoadError, match="does not begin with 'GGUF'"):
        load_engine(source(copied / "x.gguf"))
    (copied / "x.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ModelLoadError, match="'tiny'"):
        load_engine(source(copied, gguf_file="x.gguf", quantization="gguf"))


OWN_LOADER = """
import torch
from pytest_infopt.engines.loaders import load_float

def load_zeroed(request):
    module = load_float(request)
    torch.nn.init.zeros_(module.get_parameter(request.option("zeroed", "")))
    return module
"""


def test_a_loader_of_ones_own(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_loader.py").write_text(OWN_LOADER)
    monkeypatch.syspath_prepend(tmp_path)
    own = source(
        checkpoints["llama"],
        quantization="own_loader:load_zeroed",
        options={"zeroed": "model.norm.weight"},
    )
    assert not load_engine(own).score([1, 2]).logits(0, 2).any()
    with pytest.raises(ModelLoadError, match=r"'tiny' .*own_loader.* cannot be loaded"):
        load_engine(replace(own, options={}))
    for missing in ("own_loader:nothing", "no_such_module:load"):
        with pytest.raises(ConfigurationError, match="cannot be imported"):
            load_engine(replace(own, quantization=missing))


def test_progress_bars_are_as_before(
    checkpoints: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging as transformers_logging

    engine = load_engine(source(checkpoints["llama"]))
    assert Capability.HIDDEN_STATES in engine.capabilities
    assert transformers_logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")
    assert engine.memory().weight_bytes == storage_bytes(weight_tensors(engine.module))


def test_a_tensor_of_another_shape_is_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    copied = Path(shutil.copytree(checkpoints["llama"], tmp_path / "copied"))
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    with pytest.raises(ModelLoadError, match=r"mlp\.\w+_proj\.weight' first: \(.*\) in place of"):
        load_engine(ModelSource("llama", str(copied), device="cpu"))


def test_code_of_a_models_own_is_refused_by_the_name_of_its_setting(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(checkpoints["llama"], tmp_path / "copied"))
    config = json.loads((copied / "config.json").read_text())
    own = {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "o.O"},
    }
    (copied / "config.json").write_text(json.dumps(config | own))
    with pytest.raises(ModelLoadError, match="set trust_remote_code = true in the table"):
        load_engine(ModelSource("llama", str(copied), device="cpu"))
