"""Loaders of this project's own quantizers and pruners: the float model, changed in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from infopt_reference.pruning import prune_model
from infopt_reference.quantization import Granularity, QuantizationScheme, preset, quantize_model

from ..format_options import sparsity_of
from ..formats import CALIBRATION, GRID, SKIP, format_of
from .checkpoint import load_to_optimise
from .request import LoadRequest

# The format that a method's weights take unless options say otherwise; other names are presets.
_SCHEMES = {"gptq": "int4", "awq": "int4", "smoothquant": "int8", "llm-int8": "int8"}
_GROUP_SIZE = 64
_OF_NO_METHOD = SKIP | GRID | CALIBRATION  # what remains is the method's own


def load_quantized(request: LoadRequest) -> torch.nn.Module:
    """Weights on a preset's grid, or what a method makes of them."""
    name, options = request.source.quantization, request.source.options
    scheme = _call(request, scheme_of, name, options)
    own = {key: value for key, value in options.items() if key not in _OF_NO_METHOD}
    settings = own | _calibration(request) | _skip(request)
    module = load_to_optimise(request)
    method = name if name in _SCHEMES else "rtn"  # round to nearest
    _call(request, quantize_model, module, scheme, method=method, **settings)
    return module


def load_pruned(request: LoadRequest) -> torch.nn.Module:
    """Magnitude or Wanda pruning: ``sparsity`` is a share (0.5, the default) or "2:4"."""
    settings = _target(request) | _calibration(request) | _skip(request)
    module = load_to_optimise(request)
    _call(request, prune_model, module, method=request.source.quantization, **settings)
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


def _calibration(request: LoadRequest) -> dict[str, Any]:
    calibrated = format_of(request.source.quantization).calibrated
    return {"calibration": request.calibration_batches()} if calibrated else {}


def _skip(request: LoadRequest) -> dict[str, Any]:
    return {"skip": tuple(request.option("skip", ()))} if "skip" in request.source.options else {}


def _target(request: LoadRequest) -> dict[str, Any]:
    """``sparsity`` as `prune_model` takes it: a share, or a pattern."""
    sparsity = sparsity_of(request.option("sparsity", 0.5))
    if sparsity.pattern is not None:
        return {"pattern": sparsity.pattern}
    return {"sparsity": sparsity.share}


def _call(request: LoadRequest, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call into the reference; what it says of the options is the configuration's fault."""
    try:
        return function(*arguments, **named)
    except ValueError as error:
        raise request.wrong(error) from error
