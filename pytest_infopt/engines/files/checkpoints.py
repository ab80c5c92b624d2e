"""What can be known of a checkpoint before it is loaded: that it is safe, whole, and which it is.

Imports no torch. Weights are read as safetensors or GGUF alone: both are data, while a pickled file
(``*.bin``, ``*.pt``, …) runs code when it is opened.

The safetensors format: 8 bytes little-endian header length N, N bytes of JSON that maps each tensor
to ``dtype``, ``shape`` and ``data_offsets`` (begin, end) into the data after it, then the data
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import ModelLoadError
from ...strict_json import parse

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
WHOLE_FILE_BYTES = 64 * 2**20  # up to this size every byte is hashed
_BLOCK_BYTES = 4096
_STRIDES = 1024
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_LFS_POINTER = b"version https://git-lfs"
# Keys of config.json that change with the place or the tool that wrote it, not with the model.
_VOLATILE_CONFIG_KEYS = ("_name_or_path", "transformers_version")


def read_config(directory: Path) -> dict[str, Any]:
    """The checkpoint's config.json; raises ModelLoadError when it is missing or unreadable."""
    if not directory.exists():
        raise ModelLoadError(
            f"model path {directory} does not exist; give a checkpoint directory, a hub id such as "
            "'organisation/model', or 'embedded:smollm2'"
        )
    if not directory.is_dir():
        raise ModelLoadError(
            f"model path {directory} is a file; give the directory that holds config.json and "
            f"{SINGLE_FILE}, or name a GGUF file by gguf_file"
        )
    path = directory / "config.json"
    if not path.is_file():
        remedy = "save the model with save_pretrained(directory)"
        if (directory / "adapter_config.json").is_file():
            remedy = (
                "it holds an adapter: merge it into its base model (merge_and_unload) and save that"
            )
        elif any(directory.glob("*.gguf")):
            remedy = (
                f"it holds GGUF files: set gguf_file, for instance {_first(directory, '*.gguf')!r}"
            )
        raise ModelLoadError(f"{directory} has no config.json, so it is no checkpoint; {remedy}")
    document = _read_json(path)
    if not isinstance(document, dict):
        raise ModelLoadError(f"{path} holds a {type(document).__name__} where an object belongs")
    text = document.get("text_config")
    if text is not None and not isinstance(text, dict):
        raise ModelLoadError(
            f"text_config of {path} is a {type(text).__name__} where an object belongs; save the "
            "checkpoint anew"
        )
    return document


def checkpoint_config(model: str) -> dict[str, Any]:
    """The config.json of a local checkpoint, for looking ahead: empty where there is none, or a
    broken one, of which the loader will tell."""
    try:
        config = parse((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def check_checkpoint(directory: Path) -> list[Path]:
    """The weight files of a checkpoint directory, after every check that needs no model.

    Raises ModelLoadError for a missing path or config, pickled weights, a missing shard, and a
    truncated or corrupt safetensors file, naming the file and the remedy.
    """
    config = read_config(directory)
    explicit = config.get("transformers_weights")
    if explicit is not None and not str(explicit).endswith(".safetensors"):
        raise ModelLoadError(
            f"{directory / 'config.json'} points to weights in {explicit!r}; "
            "only safetensors are loaded"
        )
    if (directory / SINGLE_FILE).is_file():
        files = [directory / SINGLE_FILE]
        read_header(files[0])
        return files
    if (directory / INDEX_FILE).is_file():
        return _check_shards(directory / INDEX_FILE)
    raise ModelLoadError(_no_weights_message(directory))


def read_header(path: Path) -> dict[str, Any]:
    """The tensors that a safetensors file declares, checked against the file's length.

    Raises ModelLoadError when the file is shorter or longer than declared, or of another format.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise _corrupt(path, f"it has {size} bytes, fewer than the 8 of the header's length")
        length = int.from_bytes(start, "little")
        if (start + file.read(16)).startswith(_LFS_POINTER):
            raise ModelLoadError(
                f"{path} is a Git LFS pointer, not the weights; run `git lfs pull`"
            )
        if length > _MAX_HEADER_BYTES:
            raise _corrupt(path, f"its header claims {length} bytes, more than the format allows")
        if 8 + length > size:
            raise _corrupt(path, f"its header needs {8 + length} bytes and the file has {size}")
        file.seek(8)
        raw = file.read(length)
    tensors = _parse_header(path, raw)
    declared = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
    if 8 + length + declared != size:
        raise _corrupt(
            path, f"its header declares {8 + length + declared} bytes and the file has {size}"
        )
    return tensors


def fingerprint_of(path: Path, options: Mapping[str, Any]) -> str:
    """SHA-256 of what a model computes with: configuration, weights and loader options.

    ``path`` is a checkpoint directory or a single GGUF file. Independent of where it lies. A weight
    file of at most 64 MiB is hashed whole. Of a larger one: its header, its size, and 4 KiB blocks,
    the first, middle and last of every tensor (GGUF: 1,024 evenly spaced ones), so that any tensor
    that was trained, merged or quantized anew shows, while one edited weight between two blocks may
    not.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps(options, sort_keys=True, default=str).encode())
    if path.is_file():
        _digest_file(digest, path, None)
        return digest.hexdigest()
    config = {k: v for k, v in read_config(path).items() if k not in _VOLATILE_CONFIG_KEYS}
    digest.update(json.dumps(config, sort_keys=True).encode())
    for file in check_checkpoint(path):
        digest.update(file.name.encode())
        _digest_file(digest, file, read_header(file))
    for code in sorted(path.glob("*.py")):  # a checkpoint that brings its own model code
        digest.update(code.name.encode() + code.read_bytes())
    return digest.hexdigest()


def digest_of_file(path: Path) -> str:
    """SHA-256 of a whole file."""
    stat = path.stat()
    return _digest(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)  # a run loads one file several times
def _digest(path: Path, modified: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stored_dtype(directory: Path) -> str:
    """The dtype that a checkpoint declares, or else most of its bytes have, as torch names it."""
    config = read_config(directory)
    for section in (config, config.get("text_config") or {}):
        declared = section.get("dtype") or section.get("torch_dtype")
        if declared:
            return str(declared).removeprefix("torch.")
    weighed: dict[str, int] = {}
    for file in check_checkpoint(directory):
        for entry in read_header(file).values():
            begin, end = entry["data_offsets"]
            weighed[entry["dtype"]] = weighed.get(entry["dtype"], 0) + end - begin
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    floating = {names[dtype]: size for dtype, size in weighed.items() if dtype in names}
    return max(floating, key=lambda name: floating[name], default="float32")


def tokenizer_fingerprint_of(tokenizer: Any) -> str:
    """SHA-256 of a tokenizer's mapping from text to ids; "none" for a model without one.

    A fast tokenizer is taken by its serialised backend (vocabulary, merges, normaliser,
    pre-tokeniser, added tokens), without truncation and padding, which are state, and without
    post-processor and decoder, which ids without special tokens do not depend on. A slow one is
    taken by its class and vocabulary.
    """
    if tokenizer is None:
        return "none"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return _digest_of([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    return _digest_of_backend(backend.to_str())


@lru_cache(maxsize=2)  # a reference and its candidate mostly have the same
def _digest_of_backend(text: str) -> str:
    document = json.loads(text)
    names = ("model", "normalizer", "pre_tokenizer", "added_tokens")
    return _digest_of({name: document.get(name) for name in names})


def _digest_of(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_shards(index: Path) -> list[Path]:
    document = _read_json(index)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelLoadError(f"{index} has no weight_map; download or save the checkpoint anew")
    headers: dict[str, dict[str, Any]] = {}
    for name in sorted({str(name) for name in weight_map.values()}):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelLoadError(
                f"{index} names shard {name!r}; only *.safetensors beside it are loaded"
            )
        shard = index.parent / name
        if not shard.is_file():
            raise ModelLoadError(
                f"{shard} is missing, though {index.name} lists it; download it again"
            )
        headers[name] = read_header(shard)
    for tensor, name in weight_map.items():
        if tensor not in headers[name]:
            raise ModelLoadError(
                f"{index.parent / name} has no tensor {tensor!r}, though {index.name} says so"
            )
    return [index.parent / name for name in headers]


def _no_weights_message(directory: Path) -> str:
    pickles = sorted(p.name for p in directory.iterdir() if p.suffix in PICKLE_SUFFIXES)
    if pickles:
        return (
            f"{directory} holds pickled weights ({', '.join(pickles[:3])}), which run code when "
            "they are opened and are refused; convert them where you trust them: "
            "AutoModelForCausalLM.from_pretrained(old).save_pretrained(new) writes safetensors"
        )
    if any(directory.glob("*.gguf")):
        name = _first(directory, "*.gguf")
        return f"{directory} holds GGUF weights; set gguf_file, for instance {name!r}"
    return f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}; save it with save_pretrained"


def _parse_header(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = parse(raw)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        for entry in tensors.values():
            begin, end = entry["data_offsets"]
            if not (isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end):
                raise ValueError(f"offsets {begin}…{end}")
            if not isinstance(entry["dtype"], str):
                raise ValueError(f"dtype {entry['dtype']!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _corrupt(path, f"its header cannot be read ({error})") from error
    return tensors


def _corrupt(path: Path, why: str) -> ModelLoadError:
    return ModelLoadError(f"{path} is truncated or corrupt: {why}; download or save it again")


def _digest_file(digest: hashlib._Hash, path: Path, header: dict[str, Any] | None) -> None:
    size = path.stat().st_size
    digest.update(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        if size <= WHOLE_FILE_BYTES:
            while block := file.read(2**20):
                digest.update(block)
            return
        for offset in _sampled_offsets(file, size, header):
            file.seek(offset)
            digest.update(file.read(_BLOCK_BYTES))


def _sampled_offsets(file: BinaryIO, size: int, header: dict[str, Any] | None) -> Iterator[int]:
    if header is None:
        yield from range(0, size, max(_BLOCK_BYTES, size // _STRIDES))
        yield size - _BLOCK_BYTES
        return
    length = int.from_bytes(file.read(8), "little")
    yield from range(0, 8 + length, _BLOCK_BYTES)
    for entry in header.values():
        begin, end = (8 + length + int(offset) for offset in entry["data_offsets"])
        last = max(begin, end - _BLOCK_BYTES)
        yield from (begin, (begin + last) // 2, last)


def _read_json(path: Path) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelLoadError(
            f"{path} is not valid JSON ({error}); download or save it again"
        ) from error


def _first(directory: Path, pattern: str) -> str:
    return min(path.name for path in directory.glob(pattern))
