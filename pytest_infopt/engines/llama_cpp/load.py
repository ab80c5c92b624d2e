"""Loading a GGUF file into llama.cpp."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch

from ...errors import ConfigurationError, InvalidComparisonError, ModelLoadError
from ...release import ModelSource
from ..files.sources import locate_gguf
from ..formats import format_of, needs
from ..loaders import LoadRequest

if TYPE_CHECKING:
    from .engine import LlamaCppEngine

_OPTIONS = {"threads"}
_FORMATS = {"none", "gguf"}
_PROBE = "naïve  façade\n\tx = 3.14; 東京 w1 w2"


def load_llama_cpp(source: ModelSource) -> LlamaCppEngine:
    """The source's GGUF file in llama.cpp; ``options.threads`` are torch's by default.

    Raises ConfigurationError for options, formats and devices that it does not know, ModelLoadError
    for a missing library or file and what llama.cpp cannot load, InvalidComparisonError where it
    reads texts otherwise than the tokenizer that transformers makes of the file.
    """
    threads = _threads_of(source)
    files = locate_gguf(source)
    try:
        from .binding import LlamaError, LlamaModel
        from .engine import LlamaCppEngine
    except ImportError as error:
        title = f"model {source.name!r} with engine {source.engine!r}"
        why = f"which cannot be imported ({error})"
        raise ModelLoadError(needs(title, "xllamacpp", why, "llama-cpp")) from error
    tokenizer = LoadRequest(source, files, torch.float32, torch.device("cpu")).tokenizer()
    try:
        model = LlamaModel(files.directory / (files.gguf_file or ""), threads)
        _check_tokenizer(source, tokenizer, model.tokens_of(_PROBE))
        return LlamaCppEngine(
            source.name,
            model,
            tokenizer,
            fingerprint=files.fingerprint({"engine": source.engine, "options": source.options}),
            context_window=_context_window(tokenizer, model.trained_tokens),
        )
    except LlamaError as error:
        raise ModelLoadError(f"model {source.name!r}: {error}") from error


def _threads_of(source: ModelSource) -> int:
    if unknown := source.options.keys() - _OPTIONS:
        raise ConfigurationError(
            f"model {source.name!r}: engine {source.engine!r} has no options "
            f"{', '.join(sorted(unknown))}; known: {', '.join(sorted(_OPTIONS))}"
        )
    if format_of(source.quantization).name not in _FORMATS or source.device not in ("auto", "cpu"):
        raise ConfigurationError(
            f"model {source.name!r}: engine {source.engine!r} takes a GGUF file as it is, on the "
            f"CPU; quantization {source.quantization!r} and device {source.device!r} are not for it"
        )
    threads = source.options.get("threads", torch.get_num_threads())
    if not isinstance(threads, int) or threads < 1:
        raise ConfigurationError(
            f"model {source.name!r}: threads is {threads!r}; it takes an integer of at least 1"
        )
    return threads


def _context_window(tokenizer: Any, trained: int) -> int:
    return min(trained, int(getattr(tokenizer, "model_max_length", None) or sys.maxsize))


def _check_tokenizer(source: ModelSource, tokenizer: Any, found: list[int]) -> None:
    expected = tokenizer.encode(_PROBE, add_special_tokens=False)
    if found != expected:
        raise InvalidComparisonError(
            f"tokenizer: llama.cpp reads {_PROBE!r} as {found}, the tokenizer of model "
            f"{source.name!r} as {expected}; the file was converted with another"
        )
