"""What a loader is given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ...corpus import Document
from ...corpus.calibration import TOKENS, calibration_documents, positive
from ...errors import ConfigurationError, ModelLoadError
from ...release import ModelSource
from ..files.sources import LocalFiles
from ..files.special_tokens import beginning_of
from ..formats import needs

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


@dataclass(frozen=True)
class LoadRequest:
    """What a loader gets: checked local files, compute dtype, device, and the source itself."""

    source: ModelSource
    files: LocalFiles
    dtype: torch.dtype
    device: torch.device

    def option(self, name: str, default: Any) -> Any:
        """The source's option of that name, or the default."""
        return self.source.options.get(name, default)

    def options_of(self, names: frozenset[str]) -> dict[str, Any]:
        """Those of the named options that the source sets."""
        return {k: v for k, v in self.source.options.items() if k in names}

    def wrong(self, why: object) -> ConfigurationError:
        """The error for a source that asks for what there is not."""
        return ConfigurationError(f"{self.title}: {why}")

    @property
    def title(self) -> str:
        """What messages call the source."""
        return f"model {self.source.name!r} with quantization {self.source.quantization!r}"

    def require(self, module: str, extra: str | None = None) -> None:
        """Import a library; raises ModelLoadError naming the extra that installs it."""
        try:
            import_module(module)
        except ImportError as error:
            why = f"which cannot be imported ({error})"
            raise ModelLoadError(needs(self.title, module, why, extra)) from error

    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer; None where it has none."""
        files = self.files.as_floats
        has_one = any((files.directory / name).is_file() for name in _TOKENIZER_FILES)
        if files.gguf_file is None and not has_one:
            return None
        present = [(file, file.stat()) for file in files.directory.iterdir() if file.is_file()]
        stamps = {(file, stat.st_mtime_ns, stat.st_size) for file, stat in present}
        try:
            return _tokenizer_in(files, self.source.trust_remote_code, frozenset(stamps))
        except Exception as error:  # tokenizers raise what they please
            raise ModelLoadError(
                f"the tokenizer in {files.directory} cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error

    def calibration_documents(self) -> list[Document]:
        """The texts that a calibrated loader may look at; relative globs are the process's."""
        return calibration_documents(self.source.options, Path.cwd())

    def calibration_batches(self) -> list[torch.Tensor]:
        """Token ids [1, T] of the calibration documents, cut at ``calibration_tokens``."""
        tokenizer = self.tokenizer()
        if tokenizer is None:
            raise self.wrong("calibration takes a tokenizer, and the checkpoint has none")
        longest = positive(self.source.options, "calibration_tokens", TOKENS)
        begins_with = beginning_of(tokenizer)
        encoded = [
            (begins_with + tokenizer.encode(document.text, add_special_tokens=False))[:longest]
            for document in self.calibration_documents()
            if document.text
        ]
        batches = [torch.tensor([ids], device=self.device) for ids in encoded if ids]
        if not batches:
            raise self.wrong("no calibration document has a token")
        return batches


# Reading one takes longer than reading a small model, and a run has the same model in many dtypes.
@lru_cache(maxsize=2)
def _tokenizer_in(files: LocalFiles, trust_remote_code: bool, stamps: object) -> Any:
    """``stamps`` tell the files from others that were there before."""
    from transformers import AutoTokenizer

    gguf = {} if files.gguf_file is None else {"gguf_file": files.gguf_file}
    return AutoTokenizer.from_pretrained(
        files.directory, local_files_only=True, trust_remote_code=trust_remote_code, **gguf
    )
