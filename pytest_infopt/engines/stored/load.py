"""Finding stored scores, and whether they are those of the source."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from ...errors import ConfigurationError, InvalidComparisonError, ModelLoadError
from ...release import ModelSource
from ..files.checkpoints import checkpoint_config, tokenizer_fingerprint_of
from ..files.sources import locate_tokenizer
from ..formats import format_of
from ..loaders import LoadRequest
from .engine import StoredScoresEngine
from .score_folder import ScoreFolder

FOLDER = "scores"  # the option


def load_stored_scores(source: ModelSource) -> StoredScoresEngine:
    """The scores in the folder that the source's option ``scores`` names; of ``source.model``, only
    tokenizer and configuration are read.

    Raises ConfigurationError without the option, ModelLoadError without a tokenizer, and
    InvalidComparisonError, naming what differs, for scores of another model, tokenizer or dtype.
    """
    folder = ScoreFolder.read(_folder_of(source))
    files = locate_tokenizer(source)
    tokenizer = LoadRequest(source, files, torch.float32, torch.device("cpu")).tokenizer()
    if tokenizer is None:
        raise ModelLoadError(f"model {source.name!r}: {files.directory} has no tokenizer")
    found: dict[str, Any] = {
        "tokenizer_fingerprint": tokenizer_fingerprint_of(tokenizer),
        "configuration": configuration_of(files.directory, source),
    }
    if source.dtype != "auto":
        found["dtype"] = source.dtype
    if differences := folder.origin.differences(**found):
        raise InvalidComparisonError(
            f"the scores in {folder.folder} are not those of model {source.name!r} "
            f"({source.model}): {'; '.join(differences)}; write them anew with `infopt scores`"
        )
    return StoredScoresEngine(source.name, folder, tokenizer, _device(source.device))


def configuration_of(directory: Path, source: ModelSource) -> str:
    """SHA-256 of a checkpoint's configuration and of how its weights are made; the weights
    themselves need not be here."""
    said = {
        "config": checkpoint_config(str(directory)),
        "quantization": format_of(source.quantization).name,
        "gguf_file": source.gguf_file,
        "options": {k: v for k, v in source.options.items() if k != FOLDER},
        "revision": source.revision,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def _folder_of(source: ModelSource) -> Path:
    folder = source.options.get(FOLDER)
    if not isinstance(folder, str) or not folder:
        raise ConfigurationError(
            f"model {source.name!r}: engine {source.engine!r} reads a folder; name it in the "
            f'table of infopt.toml: options.{FOLDER} = "FOLDER"'
        )
    return Path(folder)


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
