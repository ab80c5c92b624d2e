"""Random damage to checkpoints: each is read, or refused in a sentence that names the file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from cases import cases, refusal
from documents import DEEP, altered, damaged, json_bytes
from hypothesis import example, given

from pytest_infopt.engines.files.checkpoints import (
    INDEX_FILE,
    SINGLE_FILE,
    check_checkpoint,
    fingerprint_of,
    stored_dtype,
)
from pytest_infopt.errors import ModelLoadError

CONFIG = {"model_type": "llama", "dtype": "bfloat16", "text_config": {"dtype": "float32"}}
HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [8, 16]},
}
INDEX = {"metadata": {"total_size": 16}, "weight_map": {"a": "x.safetensors", "b": "x.safetensors"}}


def safetensors(header: bytes, data: bytes = bytes(16)) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


WHOLE = safetensors(json_bytes(HEADER))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoint")


def write(folder: Path, files: dict[str, bytes]) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def read_or_refused(folder: Path, files: dict[str, bytes]) -> bool:
    """Whether the checkpoint is read; a refusal is one paragraph with the folder's path in it."""
    write(folder, files)
    reads = (check_checkpoint, stored_dtype, lambda path: fingerprint_of(path, {}))
    messages = [refusal(ModelLoadError, lambda read=read: read(folder)) for read in reads]
    assert all(str(folder) in message for message in messages if message is not None)
    return not any(messages)


def test_the_whole_one_is_read(folder: Path) -> None:
    config = json_bytes(CONFIG)
    assert read_or_refused(folder, {"config.json": config, SINGLE_FILE: WHOLE})
    index = {INDEX_FILE: json_bytes(INDEX), "x.safetensors": WHOLE}
    assert read_or_refused(folder, {"config.json": config, **index})


@cases(smoke=30, fuzz=3000)
@example(safetensors(json_bytes({"a": {"dtype": "F32", "data_offsets": [0, math.inf]}})))
@example(safetensors(b"[" * 100_000))
@given(altered(HEADER).map(json_bytes).map(safetensors) | damaged(WHOLE) | DEEP.map(safetensors))
def test_any_header(folder: Path, weights: bytes) -> None:
    read_or_refused(folder, {"config.json": b"{}", SINGLE_FILE: weights})


@cases(smoke=30, fuzz=2000)
@example(b'{"text_config": null}')
@example(b'{"text_config": [null]}')
@example(b"[" * 100_000)
@given(altered(CONFIG).map(json_bytes) | damaged(json_bytes(CONFIG)) | DEEP)
def test_any_config(folder: Path, config: bytes) -> None:
    read_or_refused(folder, {"config.json": config, SINGLE_FILE: WHOLE})


@cases(smoke=30, fuzz=2000)
@given(altered(INDEX).map(json_bytes) | damaged(json_bytes(INDEX)) | DEEP)
def test_any_index(folder: Path, index: bytes) -> None:
    read_or_refused(folder, {"config.json": b"{}", INDEX_FILE: index, "x.safetensors": WHOLE})
