"""Loading a source as an engine."""

from __future__ import annotations

import torch

from ...corpus import corpus_fingerprint
from ...errors import ConfigurationError, InfoptError, ModelLoadError
from ...release import ModelSource
from ..checkpoints import stored_dtype
from ..quiet import drop_known_chatter, no_progress_bars
from ..sources import LocalFiles, locate
from ..transformers import TransformersEngine
from .registry import loader_of, unknown
from .request import DTYPES, Loader, LoadRequest


def load_engine(source: ModelSource) -> TransformersEngine:
    """Load a source as an engine that has run its first forward pass.

    Raises ConfigurationError for an unknown quantization, dtype, device or option (with the nearest
    known names), and ModelLoadError for everything that is wrong with the model or a library.
    """
    loader = loader_of(source.quantization)
    known = loader.known_options()
    for key in source.options:
        if known is not None and key not in known:
            raise unknown(f"option of quantization {loader.name!r}", key, known)
    device = _device_of(source)
    if source.dtype not in ("auto", *DTYPES):
        raise unknown("dtype", source.dtype, ("auto", *DTYPES))
    drop_known_chatter()
    files = locate(source)
    dtype = _dtype_of(source, loader, files)
    request = LoadRequest(source, files, dtype, device)
    with no_progress_bars():
        module = _load(loader, request)
        tokenizer = request.tokenizer()
    return TransformersEngine(
        source.name,
        module,
        tokenizer,
        dtype=dtype,
        rounds_to=_coarser(dtype, loader.rounds_to.get(device.type)),
        fingerprint=files.fingerprint(_description(loader, request)),
    )


def _description(loader: Loader, request: LoadRequest) -> dict[str, object]:
    """What a model is made with, besides its checkpoint: it distinguishes fingerprints."""
    described: dict[str, object] = {
        "quantization": request.source.quantization,
        "dtype": str(request.dtype),
        "options": request.source.options,
    }
    if loader.calibrated:  # files change under the same name, embedded texts with Python
        described["calibration"] = corpus_fingerprint(request.calibration_documents())
    return described


def _load(loader: Loader, request: LoadRequest) -> torch.nn.Module:
    try:
        return loader.load(request)
    except InfoptError:
        raise
    except ImportError as error:
        raise request.missing_library(error.name or "a library", "all", error) from error
    except Exception as error:  # libraries raise what they please; all of it means: not loaded
        raise ModelLoadError(
            f"model {request.source.name!r} ({request.source.model}, quantization {loader.name!r}, "
            f"{request.dtype} on {request.device}) cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error


def _coarser(dtype: torch.dtype, name: str | None) -> torch.dtype | None:
    """The named format where it is coarser than ``dtype``, else None."""
    if name is None or torch.finfo(DTYPES[name]).eps <= torch.finfo(dtype).eps:
        return None
    return DTYPES[name]


def _dtype_of(source: ModelSource, loader: Loader, files: LocalFiles) -> torch.dtype:
    name = source.dtype if source.dtype != "auto" else loader.default_dtype
    if name == "source":
        name = "float32" if files.gguf_file is not None else stored_dtype(files.directory)
    if name not in DTYPES:
        raise ConfigurationError(
            f"model {source.name!r} is stored in {name}, which cannot be computed in; set dtype to "
            f"one of {', '.join(DTYPES)}"
        )
    return DTYPES[name]


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
