"""What is found out about a checkpoint before anything is loaded."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_models import make_model, make_tokenizer

from pytest_infopt.engines.files import checkpoints as module
from pytest_infopt.engines.files.checkpoints import (
    check_checkpoint,
    fingerprint_of,
    read_header,
    stored_dtype,
    tokenizer_fingerprint_of,
)
from pytest_infopt.errors import ModelLoadError


@pytest.fixture
def llama(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints["llama"], tmp_path / "llama"))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    make_model("qwen2").save_pretrained(tmp_path / "sharded", max_shard_size="64KB")
    return tmp_path / "sharded"


def refuses(directory: Path, *parts: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        check_checkpoint(directory)
    for part in parts:
        assert part in str(caught.value)


def test_a_whole_checkpoint_passes_and_its_files_are_named(llama: Path, sharded: Path) -> None:
    assert check_checkpoint(llama) == [llama / "model.safetensors"]
    files = check_checkpoint(sharded)
    assert len(files) > 1
    assert set(files) == set(sharded.glob("*.safetensors"))


def test_missing_path_and_missing_config_are_named(tmp_path: Path) -> None:
    refuses(tmp_path / "nowhere", str(tmp_path / "nowhere"), "does not exist", "hub id")
    refuses(tmp_path, "no config.json", "save_pretrained")
    (tmp_path / "adapter_config.json").write_text("{}")
    refuses(tmp_path, "adapter", "merge_and_unload")
    (tmp_path / "config.json").write_text("{broken")
    refuses(tmp_path, "config.json", "not valid JSON")
    refuses(tmp_path / "config.json", "is a file")


@pytest.mark.parametrize("suffix", module.PICKLE_SUFFIXES)
def test_pickled_weights_are_refused_with_a_way_out(llama: Path, suffix: str) -> None:
    (llama / "model.safetensors").rename(llama / f"pytorch_model{suffix}")
    refuses(llama, f"pytorch_model{suffix}", "pickled", "save_pretrained")


def test_a_config_that_points_to_a_pickle_is_refused(llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"transformers_weights": "evil.bin"}))
    refuses(llama, "evil.bin", "only safetensors")


def test_every_truncation_is_found(llama: Path) -> None:
    weights = llama / "model.safetensors"
    whole = weights.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for length in (0, 7, 8, 9, header - 1, header, header + 1, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:length])
        refuses(llama, "model.safetensors", "truncated or corrupt")
    weights.write_bytes(whole + b"\0")
    refuses(llama, "model.safetensors", f"{len(whole) + 1}")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "model.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    try:
        tensors = read_header(path)
    except ModelLoadError as error:
        if str(path) not in str(error):
            raise
    else:
        # No data follows the header, so what it declares must be empty.
        assert all(entry["data_offsets"] == [0, 0] for entry in tensors.values())


def test_a_git_lfs_pointer_is_recognised(llama: Path) -> None:
    (llama / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    refuses(llama, "git lfs pull")


def test_missing_shard_and_missing_tensor_are_named(sharded: Path) -> None:
    shards = check_checkpoint(sharded)
    saved = shards[1].read_bytes()
    shards[1].unlink()
    refuses(sharded, shards[1].name, "missing")
    save_file({"other": torch.zeros(1)}, shards[1])
    refuses(sharded, shards[1].name, "has no tensor")
    shards[1].write_bytes(saved[:-1])
    refuses(sharded, shards[1].name, "truncated")


def test_a_shard_outside_the_directory_is_refused(sharded: Path) -> None:
    index = sharded / module.INDEX_FILE
    index.write_text(json.dumps({"weight_map": {"w": "../elsewhere.safetensors"}}))
    refuses(sharded, "../elsewhere.safetensors")
    index.write_text("{}")
    refuses(sharded, "weight_map")


def test_weights_missing_altogether_and_gguf_only(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    refuses(llama, "neither model.safetensors")
    (llama / "x.gguf").write_bytes(b"GGUF")
    refuses(llama, "gguf_file", "x.gguf")


def test_fingerprint_depends_on_content_and_options_not_on_place(
    llama: Path, tmp_path: Path
) -> None:
    original = fingerprint_of(llama, {"quantization": "none"})
    elsewhere = Path(shutil.copytree(llama, tmp_path / "elsewhere"))
    config = json.loads((elsewhere / "config.json").read_text())
    config |= {"_name_or_path": "/another/place", "transformers_version": "0"}
    (elsewhere / "config.json").write_text(json.dumps(config))
    assert fingerprint_of(elsewhere, {"quantization": "none"}) == original
    assert fingerprint_of(elsewhere, {"quantization": "nf4"}) != original
    (elsewhere / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-2}))
    assert fingerprint_of(elsewhere, {"quantization": "none"}) != original


def test_fingerprint_of_a_small_file_sees_every_byte(llama: Path) -> None:
    weights = llama / "model.safetensors"
    whole = weights.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    original = fingerprint_of(llama, {})
    for position in (start, (start + len(whole)) // 2, len(whole) - 1):
        changed = bytearray(whole)
        changed[position] ^= 1
        weights.write_bytes(changed)
        assert fingerprint_of(llama, {}) != original
    weights.write_bytes(whole)
    assert fingerprint_of(llama, {}) == original


def test_fingerprint_of_a_large_file_sees_every_tensor(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WHOLE_FILE_BYTES", 0)
    weights = llama / "model.safetensors"
    whole = weights.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    original = fingerprint_of(llama, {})
    for entry in read_header(weights).values():
        begin, end = entry["data_offsets"]
        changed = bytearray(whole)
        changed[start + begin : start + end] = bytes(
            b ^ 1 for b in whole[start + begin : start + end]
        )
        weights.write_bytes(changed)
        assert fingerprint_of(llama, {}) != original


def test_stored_dtype_prefers_the_declaration_and_else_weighs(llama: Path) -> None:
    assert stored_dtype(llama) == "float32"
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    assert stored_dtype(llama) == "bfloat16"
    (llama / "config.json").write_text("{}")
    big, small = torch.zeros(10, dtype=torch.float16), torch.zeros(1, dtype=torch.float32)
    save_file({"big": big, "small": small}, llama / "model.safetensors")
    assert stored_dtype(llama) == "float16"


def test_tokenizer_fingerprint_is_the_mapping_not_the_state() -> None:
    tokenizer = make_tokenizer()
    fingerprint = tokenizer_fingerprint_of(tokenizer)
    tokenizer("w1 w2", truncation=True, max_length=1)  # leaves truncation set in the backend
    assert tokenizer_fingerprint_of(tokenizer) == fingerprint
    assert tokenizer_fingerprint_of(make_tokenizer()) == fingerprint
    assert tokenizer_fingerprint_of(make_tokenizer(words=127)) != fingerprint
    tokenizer.add_tokens(["w1 w2"])
    assert tokenizer_fingerprint_of(tokenizer) != fingerprint
    assert tokenizer_fingerprint_of(None) == "none"


def test_tokenizer_fingerprint_of_a_slow_tokenizer_is_its_vocabulary() -> None:
    class Slow:
        def __init__(self, words: list[str]) -> None:
            self.words = words

        def get_vocab(self) -> dict[str, int]:
            return {word: index for index, word in enumerate(self.words)}

    assert tokenizer_fingerprint_of(Slow(["a", "b"])) == tokenizer_fingerprint_of(Slow(["a", "b"]))
    assert tokenizer_fingerprint_of(Slow(["a", "b"])) != tokenizer_fingerprint_of(Slow(["b", "a"]))


def test_the_checks_import_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from pytest_infopt.engines.files import checkpoints, embedded, sources; "
        "print([m for m in ('torch', 'transformers', 'llm') "
        "if m in sys.modules])"
    )
    root = Path(module.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert re.fullmatch(r"\[\]\n", done.stdout)
