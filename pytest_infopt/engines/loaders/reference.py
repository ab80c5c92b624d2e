"""Loaders of this project's own quantizers and pruners: the float model, changed in place."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from infopt_reference.pruning import prune_model
from infopt_reference.quantization import Granularity, QuantizationScheme, preset, quantize_model

from .checkpoint import load_to_optimise
from .request import LoadRequest

# The format that a method's weights take unless options say otherwise; other names are presets.
_SCHEMES = {"gptq": "int4", "awq": "int4", "smoothquant": "int8", "llm-int8": "int8"}
_GROUP_SIZE = 64
PLACES = frozenset({"group_size", "granularity", "axis"})
GRID = PLACES | {"bits", "symmetric"}
_OF_METHOD = {
    "gptq": frozenset(
        {"act_order", "static_groups", "damping", "block_size", "row_fallback", "true_sequential"}
    ),
    "awq": frozenset({"steps", "clip"}),
    "smoothquant": frozenset({"alpha"}),
    "llm-int8": frozenset({"threshold"}),
}


def method_options(quantization: str) -> frozenset[str]:
    """Options that the method of that name takes besides those of its grid."""
    return _OF_METHOD.get(quantization, frozenset())


def load_rounded(request: LoadRequest) -> torch.nn.Module:
    """Weights to the nearest level of a preset's grid."""
    return _quantized(request, "rtn")


def load_llm_int8(request: LoadRequest) -> torch.nn.Module:
    """LLM.int8(), weights and activations but for outlier features."""
    return _quantized(request, "llm-int8")


def load_calibrated(request: LoadRequest) -> torch.nn.Module:
    """GPTQ, AWQ or SmoothQuant on the calibration documents."""
    return _quantized(request, request.source.quantization, calibration=_batches(request))


def load_pruned(request: LoadRequest) -> torch.nn.Module:
    """Magnitude or Wanda pruning: ``sparsity`` is a share (0.5, the default) or "2:4"."""
    method = request.source.quantization
    calibration = {"calibration": _batches(request)} if method == "wanda" else {}
    target = _target(request)
    module = load_to_optimise(request)
    _call(request, prune_model, module, method=method, **target, **calibration, **_skip(request))
    return module


def scheme_of(quantization: str, options: dict[str, Any]) -> QuantizationScheme:
    """The scheme that a format's name and a source's options mean.

    A group size says granularity "group"; granularity "group" alone says the preset's group size,
    or 64. Raises ValueError where they contradict each other or the format.
    """
    plain = preset(_SCHEMES.get(quantization, quantization))
    changes = {key: options[key] for key in GRID if key in options}
    if "group_size" in changes:
        changes.setdefault("granularity", Granularity.GROUP)
    elif changes.get("granularity") == Granularity.GROUP:
        changes["group_size"] = plain.group_size or _GROUP_SIZE
    elif "granularity" in changes:
        changes["group_size"] = None
    return preset(_SCHEMES.get(quantization, quantization), **changes)


def _quantized(request: LoadRequest, method: str, **settings: Any) -> torch.nn.Module:
    scheme = _call(request, scheme_of, request.source.quantization, request.source.options)
    settings |= request.options_of(method_options(method)) | _skip(request)
    module = load_to_optimise(request)
    _call(request, quantize_model, module, scheme, method=method, **settings)
    return module


def _batches(request: LoadRequest) -> list[torch.Tensor]:
    return request.calibration_batches()


def _skip(request: LoadRequest) -> dict[str, Any]:
    return {"skip": tuple(request.option("skip", ()))} if "skip" in request.source.options else {}


def _target(request: LoadRequest) -> dict[str, Any]:
    """``sparsity`` as `prune_model` takes it: a share, or a pattern."""
    sparsity = request.option("sparsity", 0.5)
    if isinstance(sparsity, str):
        pattern = re.fullmatch(r"(\d+):(\d+)", sparsity)
        if pattern is None:
            raise request.wrong(f"sparsity is {sparsity!r}; give a share such as 0.5, or '2:4'")
        return {"pattern": (int(pattern[1]), int(pattern[2]))}
    return {"sparsity": sparsity}


def _call(request: LoadRequest, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call into the reference; what it says of the options is the configuration's fault."""
    try:
        return function(*arguments, **named)
    except ValueError as error:
        raise request.wrong(error) from error
