"""llama.cpp's C API, as far as an engine takes it, in the library that the package xllamacpp ships.

The package's own classes serve texts and give no logits; its module exports the whole of llama.h.

Parameters are passed by value, in structures that grow from release to release. Only their first
fields, which stay where they are, have names here; the others are room that the library fills
itself. `_library` refuses a library whose defaults stand elsewhere.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xllamacpp.xllamacpp

from ..contexts.context import Column

_ROOM = 1024  # bytes of a structure's other fields, several times what they take
_PHYSICAL_BATCH = 512  # tokens that a kernel takes at once: llama.cpp's default
_DEFAULTS = (512, 2048, _PHYSICAL_BATCH, 1)  # of the context's named fields
_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR
_LOG_TYPE = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_POINTER, _INT, _BOOL = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool


class _ModelParameters(ctypes.Structure):
    _fields_ = (
        ("devices", _POINTER),
        ("tensor_buft_overrides", _POINTER),
        ("n_gpu_layers", _INT),
        ("others", ctypes.c_byte * _ROOM),
    )


class _ContextParameters(ctypes.Structure):
    _fields_ = (
        ("n_ctx", ctypes.c_uint32),
        ("n_batch", ctypes.c_uint32),
        ("n_ubatch", ctypes.c_uint32),
        ("n_seq_max", ctypes.c_uint32),
        ("others", ctypes.c_byte * _ROOM),
    )


class _Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", _INT),
        ("token", ctypes.POINTER(_INT)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(_INT)),
        ("n_seq_id", ctypes.POINTER(_INT)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(_INT))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


# What a function returns and takes.
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "llama_backend_init": (None,),
    "llama_log_set": (None, _LOG_TYPE, _POINTER),
    "llama_model_default_params": (_ModelParameters,),
    "llama_model_load_from_file": (_POINTER, ctypes.c_char_p, _ModelParameters),
    "llama_model_free": (None, _POINTER),
    "llama_model_get_vocab": (_POINTER, _POINTER),
    "llama_model_n_ctx_train": (_INT, _POINTER),
    "llama_model_size": (ctypes.c_uint64, _POINTER),
    "llama_model_n_params": (ctypes.c_uint64, _POINTER),
    "llama_vocab_n_tokens": (_INT, _POINTER),
    "llama_tokenize": (
        _INT, _POINTER, ctypes.c_char_p, _INT, ctypes.POINTER(_INT), _INT, _BOOL, _BOOL,
    ),
    "llama_context_default_params": (_ContextParameters,),
    "llama_init_from_model": (_POINTER, _POINTER, _ContextParameters),
    "llama_set_n_threads": (None, _POINTER, _INT, _INT),
    "llama_free": (None, _POINTER),
    "llama_get_memory": (_POINTER, _POINTER),
    "llama_memory_clear": (None, _POINTER, _BOOL),
    "llama_memory_seq_rm": (_BOOL, _POINTER, _INT, _INT, _INT),
    "llama_batch_init": (_Batch, _INT, _INT, _INT),
    "llama_batch_free": (None, _Batch),
    "llama_decode": (_INT, _POINTER, _Batch),
    "llama_get_logits": (ctypes.POINTER(ctypes.c_float), _POINTER),
}  # fmt: skip
_errors: list[str] = []  # what the library has logged since it was last asked


class LlamaError(Exception):
    """A library or model that cannot be used, or a pass that failed; with what llama.cpp said."""

    def __init__(self, what: str) -> None:
        super().__init__(": ".join([what, *_errors]))
        _errors.clear()


def _note(level: int, text: bytes | None, _: object) -> None:
    if level == _ERROR_LEVEL and text:
        _errors.append(text.decode(errors="replace").strip())


_note_error = _LOG_TYPE(_note)  # kept here: the library does not


@cache
def _library() -> ctypes.CDLL:
    """The library, whose functions know their types; raises LlamaError for one of another kind."""
    file = xllamacpp.xllamacpp.__file__
    library = ctypes.CDLL(file)
    for name, (result, *arguments) in _FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise LlamaError(f"{file} has no function {name}") from error
        function.restype, function.argtypes = result, arguments
    library.llama_log_set(_note_error, None)
    library.llama_backend_init()
    defaults = library.llama_context_default_params()
    known = (defaults.n_ctx, defaults.n_batch, defaults.n_ubatch, defaults.n_seq_max)
    if known != _DEFAULTS:
        raise LlamaError(
            f"{file} begins its context's parameters with {known}, not {_DEFAULTS}: it is of a "
            "release with another layout; install one within the bounds of the extra llama-cpp"
        )
    return library


class LlamaModel:
    """The weights of a GGUF file, mapped into memory, for ``threads`` threads on the CPU; raises
    LlamaError where the file or the library cannot be used."""

    def __init__(self, path: Path, threads: int) -> None:
        self._library = library = _library()
        _errors.clear()
        parameters = library.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self._model = library.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise LlamaError(f"llama.cpp cannot load {path}")
        self._threads = threads
        self._vocab = library.llama_model_get_vocab(self._model)
        self.vocabulary = int(library.llama_vocab_n_tokens(self._vocab))
        self.trained_tokens = int(library.llama_model_n_ctx_train(self._model))
        self.parameters = int(library.llama_model_n_params(self._model))
        self.nbytes = int(library.llama_model_size(self._model))

    def tokens_of(self, text: str) -> list[int]:
        """How llama.cpp reads a text, without special tokens."""
        data = text.encode()
        ids = (_INT * (len(data) + 1))()
        count = self._library.llama_tokenize(
            self._vocab, data, len(data), ids, len(ids), False, False
        )
        return list(ids[:count])

    def context(self, tokens: int, sequences: int = 1) -> LlamaContext:
        """A KV cache of ``sequences`` sequences of up to ``tokens`` tokens, and room to compute."""
        parameters = self._library.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = tokens * sequences  # divided among the sequences
        parameters.n_ubatch = min(_PHYSICAL_BATCH, tokens * sequences)
        parameters.n_seq_max = sequences
        pointer = self._library.llama_init_from_model(self._model, parameters)
        if not pointer:
            raise LlamaError(f"llama.cpp has no room for {sequences} sequences of {tokens} tokens")
        self._library.llama_set_n_threads(pointer, self._threads, self._threads)
        return LlamaContext(self._library, pointer, self.vocabulary)

    def close(self) -> None:
        """Give the weights back; contexts have to be closed before. Twice is fine."""
        if self._model:
            self._library.llama_model_free(self._model)
        self._model = None


class LlamaContext:
    """Sequences that are computed through one KV cache; `LlamaModel.context` makes them."""

    def __init__(self, library: ctypes.CDLL, pointer: int, vocabulary: int) -> None:
        self._library = library
        self._context: int | None = pointer
        self._memory = library.llama_get_memory(pointer)
        self._vocabulary = vocabulary

    @property
    def kept(self) -> dict[str, torch.Tensor]:
        """Nothing: llama.cpp takes the room of its cache as a whole, and shows it to nobody."""
        return {}

    def compute(self, columns: Sequence[Column]) -> torch.Tensor:
        """The logits [R, V] of the wanted among ``columns``, in their order, in float32."""
        batch = self._library.llama_batch_init(len(columns), 0, 1)
        try:
            batch.n_tokens = len(columns)
            for place, column in enumerate(columns):
                batch.token[place] = column.token
                batch.pos[place] = column.position
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = column.sequence
                batch.logits[place] = column.wanted
            status = self._library.llama_decode(self._context, batch)
        finally:
            self._library.llama_batch_free(batch)
        if status:
            raise LlamaError(f"llama.cpp's pass over {len(columns)} tokens ended with {status}")
        rows = sum(column.wanted for column in columns)
        if not rows:
            return torch.empty(0, self._vocabulary)
        told = self._library.llama_get_logits(self._context)
        # A copy: the next pass writes to the same place.
        return torch.from_numpy(np.ctypeslib.as_array(told, (rows, self._vocabulary)).copy())

    def take_back(self, sequence: int, start: int) -> bool:
        """Forget a sequence's tokens from ``start`` on; False where the cache cannot."""
        return bool(self._library.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def clear(self) -> None:
        """Forget all sequences."""
        self._library.llama_memory_clear(self._memory, False)

    def close(self) -> None:
        """Give cache and buffers back. Twice is fine."""
        if self._context:
            self._library.llama_free(self._context)
        self._context = None
