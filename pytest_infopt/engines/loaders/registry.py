"""The loaders by name; `configuration.formats` has the same names with their default budgets."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import MappingProxyType

import torch

from ...errors import ConfigurationError
from .bitsandbytes import load_bitsandbytes_4bit, load_bitsandbytes_int8
from .checkpoint import load_checkpoint, load_gguf
from .gptqmodel import OPTIONS as GPTQMODEL_OPTIONS
from .gptqmodel import load_gptqmodel
from .quanto import load_quanto
from .reference import (
    GRID,
    PLACES,
    load_calibrated,
    load_llm_int8,
    load_pruned,
    load_rounded,
    method_options,
)
from .request import Loader, LoadRequest
from .torchao import load_torchao


def loader_of(name: str) -> Loader:
    """The loader of a quantization, or one's own: "module:function", taking a `LoadRequest`.

    Raises ConfigurationError, with the nearest names, where there is none of that name.
    """
    if name in LOADERS:
        return LOADERS[name]
    module, separator, function = name.partition(":")
    if not separator:
        raise unknown("quantization", name, LOADERS)
    try:
        return Loader(name, "a loader of one's own", getattr(import_module(module), function))
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"quantization {name!r} cannot be imported: {error}") from error


def unknown(what: str, name: str, known: Iterable[str]) -> ConfigurationError:
    """The error for a name that there is not, with the nearest that there are."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=2)
    hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return ConfigurationError(
        f"unknown {what} {name!r}{hint} (known: {', '.join(names) or 'none'})"
    )


_PLAIN = frozenset({"attn_implementation"})
_SKIP = _PLAIN | {"skip"}
# Seen in bitsandbytes 0.50: 4-bit products of single rows on CPU are made in bfloat16, and
# LLM.int8() takes its input in float16. gptqmodel 7.6 makes all 4-bit products on CPU in bfloat16.
_ROUNDS_4BIT = {"cpu": "bfloat16"}
_ROUNDS_INT8 = {"cpu": "float16", "cuda": "float16"}
# Activations in int8 are off by up to half a step, 1/254 of a row's largest: what bfloat16 loses.
# Two values that differ in their last bit may be rounded to neighbouring steps.
_ROUNDS_ACTIVATIONS = {"cpu": "bfloat16", "cuda": "bfloat16"}


def _rounded(name: str, summary: str, bits: int, options: frozenset[str] = PLACES) -> Loader:
    return Loader(name, f"reference {summary}", load_rounded, bits, options=_SKIP | options)


def _method(
    name: str,
    summary: str,
    bits: int | None,
    load: Callable[[LoadRequest], torch.nn.Module],
    *options: str,
    grid: frozenset[str] = frozenset(),
    calibrated: bool = True,
    rounds_to: Mapping[str, str] = MappingProxyType({}),
) -> Loader:
    known = _SKIP | grid | method_options(name) | set(options)
    return Loader(
        name,
        f"reference {summary}",
        load,
        bits,
        options=known,
        rounds_to=rounds_to,
        calibrated=calibrated,
    )


LOADERS: dict[str, Loader] = {
    loader.name: loader
    for loader in [
        Loader("none", "the checkpoint as it is", load_checkpoint, options=_PLAIN),
        Loader("gguf", "a GGUF file, de-quantized on load", load_gguf, None, "float32", _PLAIN),
        _rounded("int8", "int8", 8, GRID),
        _rounded("int4", "int4", 4, GRID),
        _rounded("int3", "int3", 3, GRID),
        _rounded("nf4", "NF4", 4),
        _rounded("nf4-double", "NF4, double quantization", 4),
        _rounded("fp4", "FP4", 4),
        _rounded("fp8", "FP8 E4M3FN", 8),
        _rounded("fp8-e5m2", "FP8 E5M2", 8),
        _method("gptq", "GPTQ", 4, load_calibrated, grid=GRID),
        _method("awq", "AWQ", 4, load_calibrated, grid=GRID),
        _method("smoothquant", "SmoothQuant, W8A8", 8, load_calibrated,
                rounds_to=_ROUNDS_ACTIVATIONS),
        _method("llm-int8", "LLM.int8()", 8, load_llm_int8, calibrated=False,
                rounds_to=_ROUNDS_ACTIVATIONS),
        _method("magnitude", "magnitude pruning", None, load_pruned, "sparsity", calibrated=False),
        _method("wanda", "Wanda pruning", None, load_pruned, "sparsity"),
        Loader("bitsandbytes-int8", "LLM.int8(), threshold 6.0", load_bitsandbytes_int8, 8,
               options=_SKIP | {"threshold"}, rounds_to=_ROUNDS_INT8),
        Loader("bitsandbytes-nf4", "NF4, double quantization", load_bitsandbytes_4bit, 4,
               options=_SKIP | {"double_quantization"}, rounds_to=_ROUNDS_4BIT),
        Loader("bitsandbytes-fp4", "FP4, double quantization", load_bitsandbytes_4bit, 4,
               options=_SKIP | {"double_quantization"}, rounds_to=_ROUNDS_4BIT),
        Loader("torchao-int8", "int8 weights", load_torchao, 8, options=_SKIP),
        Loader("torchao-int8-dynamic", "int8 weights and activations", load_torchao, 8,
               options=_SKIP, rounds_to=_ROUNDS_ACTIVATIONS),
        Loader("torchao-int4", "int4 weights, a byte each", load_torchao, 4,
               options=_SKIP | {"group_size"}),
        Loader("torchao-float8", "float8 weights", load_torchao, 8, options=_SKIP),
        Loader("quanto-int8", "int8 weights", load_quanto, 8, options=_SKIP),
        Loader("quanto-int4", "int4 weights", load_quanto, 4, options=_SKIP),
        Loader("gptqmodel", "GPTQ checkpoint made by gptqmodel", load_gptqmodel, 4,
               options=_PLAIN | GPTQMODEL_OPTIONS, rounds_to=_ROUNDS_4BIT, calibrated=True),
    ]
}  # fmt: skip
