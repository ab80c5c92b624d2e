"""What a loader is and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ...corpus import Document
from ...corpus.calibration import TOKENS, calibration_documents, positive
from ...errors import ConfigurationError, ModelLoadError
from ...release import ModelSource
from ..sources import LocalFiles

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
CALIBRATION_OPTIONS = frozenset({"calibration", "calibration_documents", "calibration_tokens"})
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
        return ConfigurationError(
            f"model {self.source.name!r} with quantization {self.source.quantization!r}: {why}"
        )

    def missing_library(self, library: str, extra: str, error: ImportError) -> ModelLoadError:
        """The error for a library that an extra of this package would install."""
        return ModelLoadError(
            f"model {self.source.name!r} with quantization {self.source.quantization!r} needs "
            f"{library}, which cannot be imported ({error}); "
            f"run `pip install 'pytest-infopt[{extra}]'`"
        )

    def require(self, module: str, extra: str) -> None:
        """Import a library for a plain error; raises ModelLoadError naming the extra."""
        try:
            import_module(module)
        except ImportError as error:
            raise self.missing_library(module, extra, error) from error

    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer; None where it has none."""
        from transformers import AutoTokenizer

        files = self.files
        has_one = any((files.directory / name).is_file() for name in _TOKENIZER_FILES)
        if files.gguf_file is None and not has_one:
            return None
        gguf = {} if files.gguf_file is None else {"gguf_file": files.gguf_file}
        try:
            return AutoTokenizer.from_pretrained(
                files.directory,
                local_files_only=True,
                trust_remote_code=self.source.trust_remote_code,
                **gguf,
            )
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
        encoded = [
            tokenizer.encode(document.text, add_special_tokens=False)[:longest]
            for document in self.calibration_documents()
        ]
        batches = [torch.tensor([ids], device=self.device) for ids in encoded if ids]
        if not batches:
            raise self.wrong("no calibration document has a token")
        return batches


@dataclass(frozen=True)
class Loader:
    """A way to load a model. ``weight_bits`` is None where the checkpoint decides.

    ``default_dtype`` is the compute dtype when the source says "auto"; "source" means the dtype
    that the checkpoint declares. ``options`` are the keys that its sources may set, None for any.
    ``rounds_to`` names, by device type, the format that its kernels round activations to whatever
    the compute dtype. One that is ``calibrated`` takes `CALIBRATION_OPTIONS`, too.
    """

    name: str
    summary: str
    load: Callable[[LoadRequest], torch.nn.Module]
    weight_bits: float | None = None
    default_dtype: str = "source"
    options: frozenset[str] | None = None
    rounds_to: Mapping[str, str] = field(default_factory=dict)
    calibrated: bool = False

    def known_options(self) -> frozenset[str] | None:
        """All keys that its sources may set, None for any."""
        if self.options is None:
            return None
        return self.options | (CALIBRATION_OPTIONS if self.calibrated else frozenset())
