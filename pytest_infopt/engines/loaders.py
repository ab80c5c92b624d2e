"""From a model source to an engine: one loader per quantization, by name.

Every loader returns a transformers module on its device. Libraries beyond torch and transformers
are imported by the loader that needs them, so a missing one fails that candidate alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch

from ..errors import ConfigurationError, InfoptError, ModelLoadError
from ..release import ModelSource
from .checkpoints import stored_dtype
from .embedded import forget_gguf
from .quiet import drop_known_chatter, no_progress_bars
from .sources import LocalFiles, locate
from .transformers import TransformersEngine

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
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

    def missing_library(self, library: str, extra: str, error: ImportError) -> ModelLoadError:
        """The error for a library that an extra of this package would install."""
        return ModelLoadError(
            f"model {self.source.name!r} with quantization {self.source.quantization!r} needs "
            f"{library}, which cannot be imported ({error}); "
            f"run `pip install 'pytest-infopt[{extra}]'`"
        )


@dataclass(frozen=True)
class Loader:
    """A way to load a model. ``weight_bits`` is None where the checkpoint decides.

    ``default_dtype`` is the compute dtype when the source says "auto"; "source" means the dtype
    that the checkpoint declares. ``options`` are the keys that its sources may set, None for any.
    ``rounds_to`` names, by device type, the format that its kernels round activations to whatever
    the compute dtype.
    """

    name: str
    summary: str
    load: Callable[[LoadRequest], torch.nn.Module]
    weight_bits: float | None = None
    default_dtype: str = "source"
    options: frozenset[str] | None = None
    rounds_to: Mapping[str, str] = field(default_factory=dict)


def load_engine(source: ModelSource) -> TransformersEngine:
    """Load a source as an engine that has run its first forward pass.

    Raises ConfigurationError for an unknown quantization, dtype, device or option (with the nearest
    known names), and ModelLoadError for everything that is wrong with the model or a library.
    """
    loader = loader_of(source.quantization)
    for key in source.options:
        if loader.options is not None and key not in loader.options:
            raise _unknown(f"option of quantization {loader.name!r}", key, loader.options)
    device = _device_of(source)
    if source.dtype not in ("auto", *DTYPES):
        raise _unknown("dtype", source.dtype, ("auto", *DTYPES))
    drop_known_chatter()
    files = locate(source)
    dtype = _dtype_of(source, loader, files)
    request = LoadRequest(source, files, dtype, device)
    with no_progress_bars():
        module = _load(loader, request)
        tokenizer = _load_tokenizer(request)
    description = {
        "quantization": source.quantization,
        "dtype": str(dtype),
        "options": source.options,
    }
    return TransformersEngine(
        source.name,
        module,
        tokenizer,
        dtype=dtype,
        rounds_to=_coarser(dtype, loader.rounds_to.get(device.type)),
        fingerprint=files.fingerprint(description),
    )


def loader_of(name: str) -> Loader:
    """The loader of a quantization, or one's own: "module:function", taking a `LoadRequest`.

    Raises ConfigurationError, with the nearest names, where there is none of that name.
    """
    if name in LOADERS:
        return LOADERS[name]
    module, separator, function = name.partition(":")
    if not separator:
        raise _unknown("quantization", name, LOADERS)
    try:
        return Loader(name, "a loader of one's own", getattr(import_module(module), function))
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"quantization {name!r} cannot be imported: {error}") from error


def _coarser(dtype: torch.dtype, name: str | None) -> torch.dtype | None:
    """The named format where it is coarser than ``dtype``, else None."""
    if name is None or torch.finfo(DTYPES[name]).eps <= torch.finfo(dtype).eps:
        return None
    return DTYPES[name]


def load_float(request: LoadRequest, **arguments: Any) -> torch.nn.Module:
    """The model as its checkpoint has it, in the request's dtype; GGUF weights are de-quantized."""
    from transformers import AutoModelForCausalLM

    files = request.files
    if files.gguf_file is not None:
        arguments["gguf_file"] = files.gguf_file
    if "attn_implementation" in request.source.options:
        arguments["attn_implementation"] = request.source.options["attn_implementation"]
    module, report = AutoModelForCausalLM.from_pretrained(
        files.directory,
        dtype=request.dtype,
        device_map={"": request.device},
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=request.source.trust_remote_code,
        output_loading_info=True,
        **arguments,
    )
    # transformers fills missing tensors with random numbers and only warns.
    if missing := sorted(report["missing_keys"]):
        raise ModelLoadError(
            f"{files.directory} lacks {len(missing)} tensors of the model, {missing[0]!r} first; "
            "the checkpoint is incomplete or of another architecture: save or download it again"
        )
    if files.gguf_file is not None:
        forget_gguf(module)
    if request.dtype is torch.float64:
        module = module.double()  # the rotary frequencies, which stay float32 otherwise
    result: torch.nn.Module = module
    return result


def load_gguf(request: LoadRequest) -> torch.nn.Module:
    """A GGUF file, de-quantized as it is read."""
    if request.files.gguf_file is None:
        raise ConfigurationError(
            f"model {request.source.name!r} has quantization 'gguf' and no gguf_file; name the file"
        )
    return load_float(request)


def load_reference_quantized(request: LoadRequest) -> torch.nn.Module:
    """The float model with its linear layers replaced by this project's reference quantizer."""
    from infopt_reference.quantization import preset, quantize_model

    options = request.source.options
    changes = {key: options[key] for key in ("group_size",) if key in options}
    scheme = preset(request.source.quantization, **changes)
    module = load_float(request)
    if "skip" in options:
        quantize_model(module, scheme, skip=tuple(options["skip"]))
    else:
        quantize_model(module, scheme)
    return module


def load_bitsandbytes_int8(request: LoadRequest) -> torch.nn.Module:
    """LLM.int8(): 8-bit weights, outlier columns in 16 bit (Dettmers et al. 2022)."""
    return _load_bitsandbytes(
        request,
        load_in_8bit=True,
        llm_int8_threshold=float(request.option("threshold", 6.0)),
        llm_int8_skip_modules=request.option("skip", None),
    )


def load_bitsandbytes_4bit(request: LoadRequest) -> torch.nn.Module:
    """NF4 or FP4 weights in blocks of 64, double quantization on (QLoRA: Dettmers et al. 2023)."""
    return _load_bitsandbytes(
        request,
        load_in_4bit=True,
        bnb_4bit_quant_type=request.source.quantization.rpartition("-")[2],
        bnb_4bit_use_double_quant=bool(request.option("double_quantization", True)),
        bnb_4bit_compute_dtype=request.dtype,
        llm_int8_skip_modules=request.option("skip", None),
    )


def _load_bitsandbytes(request: LoadRequest, **settings: Any) -> torch.nn.Module:
    if request.dtype is torch.float64:
        raise ConfigurationError(
            f"model {request.source.name!r}: bitsandbytes has no float64 kernels; choose float32, "
            "float16 or bfloat16"
        )
    try:
        import bitsandbytes  # noqa: F401  here, for a plain error; transformers' own is about versions
    except ImportError as error:
        raise request.missing_library("bitsandbytes", "bitsandbytes", error) from error
    from transformers import BitsAndBytesConfig

    return load_float(request, quantization_config=BitsAndBytesConfig(**settings))


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


def _load_tokenizer(request: LoadRequest) -> Any:
    from transformers import AutoTokenizer

    files = request.files
    has_one = any((files.directory / name).is_file() for name in _TOKENIZER_FILES)
    if files.gguf_file is None and not has_one:
        return None
    gguf = {} if files.gguf_file is None else {"gguf_file": files.gguf_file}
    try:
        return AutoTokenizer.from_pretrained(
            files.directory,
            local_files_only=True,
            trust_remote_code=request.source.trust_remote_code,
            **gguf,
        )
    except Exception as error:  # as above
        raise ModelLoadError(
            f"the tokenizer in {files.directory} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


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
        raise _unknown("device", source.device, ("auto", "cpu", "cuda", "cuda:0")) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelLoadError(
            f"model {source.name!r} asks for device {source.device!r} and torch sees "
            f"{torch.cuda.device_count()} CUDA devices; set device to 'auto' or 'cpu'"
        )
    return device


def _unknown(what: str, name: str, known: Iterable[str]) -> ConfigurationError:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=2)
    hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return ConfigurationError(
        f"unknown {what} {name!r}{hint} (known: {', '.join(names) or 'none'})"
    )


_PLAIN = frozenset({"attn_implementation"})
# Seen in bitsandbytes 0.50: 4-bit products of single rows on CPU are made in bfloat16, and
# LLM.int8() takes its input in float16.
_ROUNDS_4BIT = {"cpu": "bfloat16"}
_ROUNDS_INT8 = {"cpu": "float16", "cuda": "float16"}
_SKIP = _PLAIN | {"skip"}
_GROUPED = _SKIP | {"group_size"}

LOADERS: dict[str, Loader] = {
    loader.name: loader
    for loader in [
        Loader("none", "the checkpoint as it is", load_float, options=_PLAIN),
        Loader("gguf", "a GGUF file, de-quantized on load", load_gguf, None, "float32", _PLAIN),
        Loader("int8", "reference int8", load_reference_quantized, 8, options=_SKIP),
        Loader("int4", "reference int4", load_reference_quantized, 4, options=_GROUPED),
        Loader("int3", "reference int3", load_reference_quantized, 3, options=_GROUPED),
        Loader("nf4", "reference NF4", load_reference_quantized, 4, options=_GROUPED),
        Loader("nf4-double", "reference NF4, double quantization", load_reference_quantized, 4,
               options=_GROUPED),
        Loader("fp4", "reference FP4", load_reference_quantized, 4, options=_GROUPED),
        Loader("bitsandbytes-int8", "LLM.int8(), threshold 6.0", load_bitsandbytes_int8, 8,
               options=_SKIP | {"threshold"}, rounds_to=_ROUNDS_INT8),
        Loader("bitsandbytes-nf4", "NF4, double quantization", load_bitsandbytes_4bit, 4,
               options=_SKIP | {"double_quantization"}, rounds_to=_ROUNDS_4BIT),
        Loader("bitsandbytes-fp4", "FP4, double quantization", load_bitsandbytes_4bit, 4,
               options=_SKIP | {"double_quantization"}, rounds_to=_ROUNDS_4BIT),
    ]
}  # fmt: skip
