"""GPTQ checkpoints read without gptqmodel, into this project's quantized layers.

The same weights, bit for bit, in layers that widen them for every product: for machines on which
gptqmodel does not install. Checkpoints in activation order need it, as do other ``pack_dtype``s.
"""

from __future__ import annotations

from typing import Any

import torch
from infopt_reference.quantization import QuantizedLinear, read_gptq_layer

from ...errors import ModelLoadError
from ..files.checkpoints import check_checkpoint, read_config
from ..formats import PLAIN, needs
from .request import LoadRequest

_PARTS = ("qweight", "qzeros", "scales", "g_idx")
_VERSIONS = {"gptq": 1, "gptq_v2": 2}


def load_gptq_checkpoint(request: LoadRequest) -> torch.nn.Module:
    """The checkpoint's model, quantized layers as `QuantizedLinear`.

    Raises ModelLoadError for a variant of the format that this reader does not know, for layers
    that the model has not, and for tensors that are missing or too many.
    """
    tensors = _tensors(request)
    module = _empty_model(request)
    names = [key.removesuffix(".qweight") for key in tensors if key.endswith(".qweight")]
    if not names:
        raise _unreadable(request, "no tensor is called *.qweight")
    for name in names:
        parts = {p: tensors.pop(f"{name}.{p}") for p in _PARTS if f"{name}.{p}" in tensors}
        _replace(request, module, name, parts)
    found = module.load_state_dict(
        {name: tensor.to(request.dtype) for name, tensor in tensors.items()}, strict=False
    )
    module.tie_weights()  # type: ignore[operator]  # a transformers model
    _check_complete(request, module, names, found)
    return module.to(request.device).eval()


def _tensors(request: LoadRequest) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    files = check_checkpoint(request.files.directory)
    return {name: tensor for path in files for name, tensor in load_file(path).items()}


def _empty_model(request: LoadRequest) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    directory, trusted = request.files.directory, request.source.trust_remote_code
    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=trusted)
    del config.quantization_config
    module: torch.nn.Module = AutoModelForCausalLM.from_config(
        config,
        dtype=request.dtype,
        trust_remote_code=trusted,
        **request.options_of(PLAIN),
    )
    return module.double() if request.dtype is torch.float64 else module


def _replace(
    request: LoadRequest, module: torch.nn.Module, name: str, parts: dict[str, torch.Tensor]
) -> None:
    stored = read_config(request.files.directory)["quantization_config"]
    form = stored.get("checkpoint_format", "gptq")
    if form not in _VERSIONS or stored.get("pack_dtype", "int32") != "int32":
        raise _unreadable(request, f"checkpoint_format {form!r}, {stored.get('pack_dtype')}")
    try:
        layer = module.get_submodule(name)
        weight = read_gptq_layer(
            parts,
            bits=stored["bits"],
            group_size=stored["group_size"],
            version=_VERSIONS[form],
            dtype=request.dtype,
        )
    except (AttributeError, KeyError, ValueError) as error:
        raise _unreadable(request, f"{name}: {error}") from error
    expected = getattr(layer, "weight", torch.empty(0)).shape
    if expected != weight.shape:
        raise _unreadable(request, f"{name} is {tuple(weight.shape)}, not {tuple(expected)}")
    bias = getattr(layer, "bias", None)
    module.set_submodule(name, QuantizedLinear(weight, bias))


def _check_complete(
    request: LoadRequest, module: torch.nn.Module, quantized: list[str], found: Any
) -> None:
    layers = {name: module.get_submodule(name) for name in quantized}
    own = {f"{name}.{part}" for name, layer in layers.items() for part in layer.state_dict()}
    # A tied head is stored once, under the embedding's name.
    tied = set(getattr(module, "all_tied_weights_keys", None) or ())
    bias = {f"{name}.bias" for name in quantized}
    missing = set(found.missing_keys) - (own - bias) - tied
    for what, keys in (("lacks", missing), ("has besides", set(found.unexpected_keys))):
        if keys:
            raise _unreadable(request, f"the checkpoint {what} {min(keys)!r} ({len(keys)} tensors)")


def _unreadable(request: LoadRequest, why: str) -> ModelLoadError:
    lost = f"without which the GPTQ checkpoint in {request.files.directory} cannot be read: {why}"
    return ModelLoadError(needs(request.title, "gptqmodel", lost, "gptq"))
