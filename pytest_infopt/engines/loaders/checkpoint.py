"""Checkpoints as they are: floats, GGUF files, and those that a quantizer has written.

A checkpoint whose config.json has a ``quantization_config`` is read by transformers, through the
library of its ``quant_method``. GPTQ checkpoints, which auto-gptq writes like gptqmodel, need none.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from ...errors import ConfigurationError, ModelLoadError
from ..files.checkpoints import read_config
from ..files.embedded import forget_gguf
from ..formats import PLAIN
from .gptq_checkpoint import load_gptq_checkpoint
from .request import LoadRequest

# quant_method: the library that transformers reads it through, and the extra that installs it.
_READERS = {
    "awq": ("gptqmodel", "gptq"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
    "gptq": ("gptqmodel", "gptq"),
    "torchao": ("torchao", "torchao"),
}


def load_checkpoint(request: LoadRequest) -> torch.nn.Module:
    """The checkpoint in whatever format it comes.

    GPTQ is read by gptqmodel where that is installed, which has the faster layers, else by ours.
    """
    method = stored_method(request)
    if method == "gptq" and not _can_import("gptqmodel"):
        return load_gptq_checkpoint(request)
    if method in _READERS:
        request.require(*_READERS[method])
    return load_float(request)


def _can_import(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return False
    return True


def stored_method(request: LoadRequest) -> str | None:
    """The method that the checkpoint is quantized by, None for floats."""
    if request.files.gguf_file is not None:
        return None
    stored = read_config(request.files.directory).get("quantization_config")
    return str(stored.get("quant_method")) if isinstance(stored, dict) else None


def load_float(request: LoadRequest, **arguments: Any) -> torch.nn.Module:
    """The model as its checkpoint has it, in the request's dtype; GGUF weights are de-quantized."""
    from transformers import AutoModelForCausalLM

    files = request.files.as_floats
    if files.gguf_file is not None:
        arguments["gguf_file"] = files.gguf_file
    module, report = AutoModelForCausalLM.from_pretrained(
        files.directory,
        dtype=request.dtype,
        device_map={"": request.device},
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=request.source.trust_remote_code,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused below, with the tensor's name and shapes
        **request.options_of(PLAIN),
        **arguments,
    )
    if wrong := sorted(report["mismatched_keys"]):
        name, stored, expected = wrong[0]
        raise ModelLoadError(
            f"{files.directory} has {len(wrong)} tensors of another shape than its config.json "
            f"says, {name!r} first: {tuple(stored)} in place of {tuple(expected)}; the two belong "
            "to different models: save or download them again"
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
        _expert_by_expert(module)
    result: torch.nn.Module = module
    return result


def _expert_by_expert(module: torch.nn.Module) -> None:
    """Let a mixture of experts multiply one by one: torch's grouped product takes no float64."""
    can_set: Any = getattr(module, "_can_set_experts_implementation", None)
    if can_set is not None and can_set():
        module.set_experts_implementation("eager")  # type: ignore[operator]  # transformers'


def load_gguf(request: LoadRequest) -> torch.nn.Module:
    """A GGUF file, de-quantized as it is read."""
    if request.files.gguf_file is None:
        raise ConfigurationError(
            f"model {request.source.name!r} has quantization 'gguf' and no gguf_file; name the file"
        )
    return load_float(request)


def load_to_optimise(request: LoadRequest) -> torch.nn.Module:
    """The float model that a quantizer or pruner starts from.

    Raises ConfigurationError for a checkpoint that is quantized already: quantized layers would
    silently be left as they are.
    """
    method = stored_method(request)
    if method is not None:
        raise request.wrong(
            f"the checkpoint in {request.files.directory} is quantized already, by {method}; give "
            "the float checkpoint, or take this one as it is with quantization 'none'"
        )
    return load_float(request)
