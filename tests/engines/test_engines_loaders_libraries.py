"""Loaders of torchao, optimum-quanto and gptqmodel, and checkpoints that libraries have written."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from infopt_reference.quantization import QuantizedLinear, pack
from safetensors.torch import load_file, save_file
from tiny_models import SAMPLE_IDS, VOCABULARY

from pytest_infopt.engines.files.checkpoints import read_config
from pytest_infopt.engines.formats import FORMATS
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.errors import ConfigurationError, ModelLoadError
from pytest_infopt.release import ModelSource

LIBRARIES = {"torchao": "torchao", "quanto": "optimum.quanto"}
LINEAR_WEIGHTS = 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 128)


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def loaders_of(library: str) -> list[Any]:
    missing = not installed(LIBRARIES[library])
    skip = pytest.mark.skipif(missing, reason=f"{LIBRARIES[library]} is not installed")
    names = [name for name in FORMATS if name.startswith(f"{library}-")]
    return [pytest.param(name, marks=skip) for name in names]


def load(path: Path, quantization: str = "none", **options: Any) -> TransformersEngine:
    return load_engine(ModelSource("tiny", str(path), quantization, device="cpu", options=options))


def logits(engine: TransformersEngine) -> torch.Tensor:
    return engine.score(SAMPLE_IDS).logits(0, len(SAMPLE_IDS))


def relative_error(engine: TransformersEngine, reference: TransformersEngine) -> float:
    expected = logits(reference)
    return float((logits(engine) - expected).norm() / expected.norm())


@pytest.mark.parametrize("quantization", [*loaders_of("torchao"), *loaders_of("quanto")])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_library_quantizes_what_the_reference_would_and_is_weighed(
    checkpoints: dict[str, Path], quantization: str, architecture: str
) -> None:
    path = checkpoints[architecture]
    original, engine = load(path), load(path, quantization)
    bits = 8 if quantization == "torchao-int4" else FORMATS[quantization].bits
    assert bits is not None
    saved = original.memory().weight_bytes - engine.memory().weight_bytes
    # Codes take `bits` a weight; scales and zero points at most 40 bits for every 32 weights.
    assert LINEAR_WEIGHTS * (32 - bits - 40 / 32) / 8 <= saved <= LINEAR_WEIGHTS * (32 - bits) / 8
    embeddings = engine.module.get_input_embeddings().weight
    assert torch.equal(embeddings, original.module.get_input_embeddings().weight)
    # No coarser than what the reference quantizer of that width and kind makes of it.
    kind = {"torchao-float8": "fp8", "torchao-int8-dynamic": "smoothquant"}.get(quantization)
    dtype_error = "int4" if quantization.endswith("int4") else "int8"
    if kind is None:
        own = load(path, dtype_error, granularity="channel" if bits == 8 else "group")
        assert relative_error(engine, original) <= 2 * relative_error(own, original)
    elif kind == "fp8":
        assert relative_error(engine, original) <= 2 * relative_error(load(path, kind), original)
    else:
        weights_alone = load(path, "torchao-int8")
        assert not torch.equal(logits(engine), logits(weights_alone))
        llm_int8 = load(path, "llm-int8", threshold=float("inf"))
        assert relative_error(engine, original) <= 2 * relative_error(llm_int8, original)


@pytest.mark.parametrize("quantization", [*loaders_of("torchao"), *loaders_of("quanto")])
def test_libraries_leave_out_what_they_are_told_to(
    checkpoints: dict[str, Path], quantization: str
) -> None:
    mlp = load(checkpoints["llama"], quantization, skip=["down_proj"]).module.model.layers[1].mlp
    plain = load(checkpoints["llama"]).module.model.layers[1].mlp
    assert type(mlp.down_proj) is torch.nn.Linear
    assert torch.equal(mlp.down_proj.weight, plain.down_proj.weight)
    assert type(mlp.down_proj.weight) is not type(mlp.up_proj.weight)
    with pytest.raises(ConfigurationError, match="'dwon', which is in no module's path"):
        load(checkpoints["llama"], quantization, skip=["dwon"])


@pytest.mark.parametrize(
    ("quantization", "module", "extra"),
    [
        ("torchao-int8", "torchao", "torchao"),
        ("quanto-int4", "optimum.quanto", "quanto"),
        ("gptqmodel", "gptqmodel", "gptq"),
    ],
)
def test_a_missing_library_names_its_extra(
    checkpoints: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    quantization: str,
    module: str,
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelLoadError, match=rf"needs {module}.*'pytest-infopt\[{extra}\]'"):
        load(checkpoints["llama"], quantization)


@pytest.mark.parametrize(
    ("method", "module", "extra"),
    [
        ("gptq", "gptqmodel", "gptq"),
        ("awq", "gptqmodel", "gptq"),
        ("torchao", "torchao", "torchao"),
        ("compressed-tensors", "compressed_tensors", "compressed-tensors"),
    ],
)
def test_a_checkpoint_whose_library_is_missing_names_the_extra(
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    module: str,
    extra: str,
) -> None:
    copied = Path(shutil.copytree(checkpoints["llama"], tmp_path / "copied"))
    config = read_config(copied) | {"quantization_config": {"quant_method": method, "bits": 4}}
    (copied / "config.json").write_text(json.dumps(config))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelLoadError, match=rf"needs {module}.*'pytest-infopt\[{extra}\]'"):
        load(copied)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("form", ["gptq", "gptq_v2"])
def test_gptq_checkpoints_are_read_without_gptqmodel(
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    form: str,
) -> None:
    monkeypatch.setitem(sys.modules, "gptqmodel", None)
    copied = Path(shutil.copytree(checkpoints[architecture], tmp_path / "copied"))
    floats = load(checkpoints[architecture])
    rounded = load(checkpoints[architecture], "int4", group_size=32)
    write_gptq(copied, rounded.module, form)
    engine = load(copied)
    assert torch.equal(logits(engine), logits(rounded))
    assert engine.memory().weight_bytes <= rounded.memory().weight_bytes
    assert not torch.equal(logits(engine), logits(floats))

    tensors = load_file(copied / "model.safetensors")
    norm = tensors.pop("model.norm.weight")
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lacks 'model\.norm\.weight' \(1 tensors\)"):
        load(copied)
    tensors |= {"model.norm.weight": norm, "model.extra.weight": norm.clone()}
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"has besides 'model\.extra\.weight'"):
        load(copied)


def write_gptq(directory: Path, module: torch.nn.Module, form: str) -> None:
    """Turn a saved checkpoint into a GPTQ one with the codes of a quantized module."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    for name, layer in module.named_modules():
        if isinstance(layer, QuantizedLinear):
            del tensors[f"{name}.weight"]
            weight = layer.quantized_weight
            assert weight.zero_points is not None
            codes = weight.codes.view(layer.out_features, -1).view(torch.int32)  # [N, K·b/32]
            tensors[f"{name}.qweight"] = codes.T.contiguous()
            zeros = pack(weight.zero_points.T.contiguous(), 4).view(torch.int32)
            if form == "gptq":
                zeros = zeros - 0x11111111
            tensors[f"{name}.qzeros"] = zeros.view(weight.scales.shape[1], -1)
            tensors[f"{name}.scales"] = weight.scales.T.contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    stored = {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": form}
    config = read_config(directory) | {"quantization_config": stored}
    (directory / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("calibration")
    for number in range(8):
        words = random.Random(number).choices(range(VOCABULARY), k=60)
        (folder / f"{number}.txt").write_text(" ".join(f"w{word}" for word in words))
    return str(folder / "*.txt")


def assert_weights_of_gptqmodel(module: torch.nn.Module, checkpoint: Path) -> None:
    from gptqmodel import BACKEND, GPTQModel

    # Of its kernels this one dequantizes, and in 16 bit only.
    peer = GPTQModel.load(str(checkpoint), backend=BACKEND.TORCH, device="cpu", dtype=torch.float16)
    layers = {n: m for n, m in module.named_modules() if isinstance(m, QuantizedLinear)}
    assert len(layers) == 2 * 7
    for name, layer in layers.items():
        theirs = peer.model.get_submodule(name).dequantize_weight().T
        assert torch.equal(layer.quantized_weight.dequantize(torch.float16), theirs), name


# gptqmodel leaves the removal of temporary folders to the garbage collector.
careless = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")


@careless
@pytest.mark.slow
def test_gptqmodel_makes_a_checkpoint_once_and_it_loads(
    checkpoints: dict[str, Path], texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gptqmodel")
    monkeypatch.setenv("INFOPT_CACHE", str(tmp_path))
    path, before = checkpoints["llama"], set(Path().iterdir())
    engine = load(path, "gptqmodel", group_size=32, calibration=texts)
    made = [folder for folder in tmp_path.iterdir() if folder.is_dir()]
    assert len(made) == 1
    assert set(Path().iterdir()) == before
    config = read_config(made[0])
    assert config["quantization_config"]["group_size"] == 32
    assert config.get("pad_token_id") == read_config(path).get("pad_token_id")
    written = (made[0] / "model.safetensors").stat().st_mtime_ns
    again = load(path, "gptqmodel", group_size=32, calibration=texts)
    assert (made[0] / "model.safetensors").stat().st_mtime_ns == written
    assert torch.equal(logits(again), logits(engine))
    rounded = load(path, "int4", group_size=32, symmetric=True)
    original = load(path)
    assert relative_error(engine, original) <= 2 * relative_error(rounded, original)
    # The checkpoint is one like any other: format "none". Without gptqmodel our reader makes the
    # same weights of it, bit for bit.
    assert torch.equal(logits(load(made[0])), logits(engine))
    monkeypatch.setitem(sys.modules, "gptqmodel", None)
    ours = load(made[0])
    monkeypatch.undo()
    monkeypatch.setenv("INFOPT_CACHE", str(tmp_path))
    assert_weights_of_gptqmodel(ours.module, made[0])
    load(path, "gptqmodel", group_size=64, calibration=texts)
    assert len([folder for folder in tmp_path.iterdir() if folder.is_dir()]) == 2


@careless
@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"bits": 2, "symmetric": False}, {"bits": 3, "symmetric": False}, {"bits": 8}]
)
def test_our_reader_makes_the_weights_of_gptqmodel_at_every_width(
    checkpoints: dict[str, Path],
    texts: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    peer = pytest.importorskip("gptqmodel")
    monkeypatch.setenv("INFOPT_CACHE", str(tmp_path))
    load(checkpoints["llama"], "gptqmodel", group_size=32, calibration=texts, **options)
    (made,) = [folder for folder in tmp_path.iterdir() if folder.is_dir()]
    monkeypatch.setitem(sys.modules, "gptqmodel", None)
    ours = load(made)
    monkeypatch.setitem(sys.modules, "gptqmodel", peer)
    assert_weights_of_gptqmodel(ours.module, made)


@careless
@pytest.mark.slow
def test_a_checkpoint_that_gptqmodel_cannot_run_is_a_load_error(
    checkpoints: dict[str, Path], texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gptqmodel")
    monkeypatch.setenv("INFOPT_CACHE", str(tmp_path))
    # 64 features are half a group: written without complaint, found by the first forward pass.
    with pytest.raises(ModelLoadError, match=r"'tiny'.*(128|divisible)"):
        load(checkpoints["llama"], "gptqmodel", group_size=128, calibration=texts)
