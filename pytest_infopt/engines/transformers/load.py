"""Loading a source as an engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import torch

from ...corpus import corpus_fingerprint
from ...errors import ConfigurationError, InfoptError, ModelLoadError
from ...naming import import_named
from ...release import ModelSource
from ..base import Engine
from ..files.checkpoints import read_config, stored_dtype
from ..files.sources import LocalFiles, locate
from ..formats import DTYPES, ORACLE_DTYPE, Format, format_of, needs, unknown
from ..kv_cache_formats import kv_cache_format
from ..loaders import LoadRequest
from .causal import check_config
from .engine import TransformersEngine
from .kv_cached import KVCachedEngine
from .quiet import drop_known_chatter, no_progress_bars

_FEW_BITS = "bfloat16"
_DTYPES = (*DTYPES, ORACLE_DTYPE)


def load_transformers(source: ModelSource) -> Engine:
    """Load a source as an engine that has run its first forward pass.

    Raises ConfigurationError for an unknown quantization, dtype, device or option (with the nearest
    known names), and ModelLoadError for everything that is wrong with the model or a library.
    """
    form = format_of(source.quantization)
    form.check_options(source.options)
    device = _device_of(source)
    if source.dtype not in ("auto", *_DTYPES):
        raise unknown("dtype", source.dtype, ("auto", *_DTYPES))
    drop_known_chatter()
    files = locate(source)
    if files.gguf_file is None:
        check_config(read_config(files.directory), source.name)
    dtype = _dtype_of(source, form, files)
    request = LoadRequest(source, files, dtype, device)
    with no_progress_bars():
        module = _load(form, request)
        tokenizer = request.tokenizer()
    if form.options is None:
        dtype = _dtype_in(module) or dtype
    details: dict[str, Any] = {
        "dtype": dtype,
        "rounds_to": _coarser(dtype, _rounds_to(source, form, device)),
        "fingerprint": files.fingerprint(_description(form, request)),
    }
    if source.kv_cache is not None:
        cache = kv_cache_format(source.kv_cache)
        if cache.module is not None:
            request.require(cache.module, cache.extra)
        make = cast(Callable[[Any], Any], import_named(cache.make))
        return KVCachedEngine(source.name, module, tokenizer, cache, make, **details)
    return TransformersEngine(source.name, module, tokenizer, **details)


def _description(form: Format, request: LoadRequest) -> dict[str, object]:
    """What a model is made with, besides its checkpoint: it distinguishes fingerprints."""
    described: dict[str, object] = {
        "quantization": request.source.quantization,
        "dtype": str(request.dtype),
        "options": request.source.options,
    }
    if request.source.kv_cache is not None:
        described["kv_cache"] = request.source.kv_cache
    if form.calibrated:  # files change under the same name, embedded texts with Python
        described["calibration"] = corpus_fingerprint(request.calibration_documents())
    return described


def _load(form: Format, request: LoadRequest) -> torch.nn.Module:
    load = form.load_function()
    if form.module is not None:
        request.require(form.module, form.extra)
    try:
        module: torch.nn.Module = load(request)
        return module
    except InfoptError:
        raise
    except ImportError as error:
        why = f"which cannot be imported ({error})"
        raise ModelLoadError(needs(request.title, error.name or "a library", why, "all")) from error
    except Exception as error:  # libraries raise what they please; all of it means: not loaded
        if "trust_remote_code" in str(error):
            raise ModelLoadError(
                f"model {request.source.name!r} ({request.source.model}) comes with Python code of "
                "its own, which would be run; where you trust it, set trust_remote_code = true in "
                "the table of infopt.toml that names the model"
            ) from error
        raise ModelLoadError(
            f"model {request.source.name!r} ({request.source.model}, quantization {form.name!r}, "
            f"{request.dtype} on {request.device}) cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error


def _rounds_to(source: ModelSource, form: Format, device: torch.device) -> str | None:
    """What the model is rounded to on the way. A cache of few bits may round two numbers that
    differ in their last bit to neighbouring codes, as integer activations do."""
    return form.rounds_to.get(device.type) if source.kv_cache is None else _FEW_BITS


def _coarser(dtype: torch.dtype, name: str | None) -> torch.dtype | None:
    """The named format where it is coarser than ``dtype``, else None."""
    other: torch.dtype | None = getattr(torch, name) if name else None
    return other if other and torch.finfo(other).eps > torch.finfo(dtype).eps else None


def _dtype_of(source: ModelSource, form: Format, files: LocalFiles) -> torch.dtype:
    name = source.dtype if source.dtype != "auto" else form.default_dtype
    if name == "source":
        name = "float32" if files.gguf_file is not None else stored_dtype(files.directory)
    if name not in _DTYPES:
        raise ConfigurationError(
            f"model {source.name!r} is stored in {name}, which cannot be computed in; set dtype to "
            f"one of {', '.join(_DTYPES)}"
        )
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _dtype_in(module: torch.nn.Module) -> torch.dtype | None:
    """The dtype that most of a module's floating-point parameters have: a loader of one's own may
    not have followed the request."""
    counts = Counter[torch.dtype]()
    for parameter in module.parameters():
        if parameter.is_floating_point() and parameter.dtype.itemsize > 1:
            counts[parameter.dtype] += parameter.numel()
    return max(counts, key=counts.__getitem__, default=None)


def _device_of(source: ModelSource) -> torch.device:
    if source.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(source.device)
    except RuntimeError as error:
        raise unknown("device", source.device, ("auto", "cpu", "cuda", "cuda:0")) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelLoadError(
            f"model {source.name!r} asks for device {source.device!r} and torch sees "
            f"{torch.cuda.device_count()} CUDA devices; set device to 'auto' or 'cpu'"
        )
    return device
