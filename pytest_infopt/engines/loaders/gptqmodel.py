"""GPTQ checkpoints made by gptqmodel from the float checkpoint, once, and kept in the cache.

Its own interface is used, not that of transformers, which takes five times as long. A checkpoint is
trusted after it has been loaded and has run a forward pass, as every engine does: groups that do
not divide a layer's width are written without complaint, and fail only there.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ...corpus import corpus_fingerprint
from ..files.cache import built_once, cache_directory
from ..files.checkpoints import read_config
from ..files.sources import LocalFiles
from .checkpoint import load_float, stored_method
from .request import LoadRequest

# Read when gptqmodel is imported. A pool of two is asked of a parent of one where the machine has
# two cores.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")


def load_gptqmodel(request: LoadRequest) -> torch.nn.Module:
    """A GPTQ checkpoint of the model, made now if it never was."""
    if method := stored_method(request):
        raise request.wrong(f"the checkpoint is quantized already, by {method}")
    if request.files.gguf_file is not None:
        raise request.wrong("gptqmodel reads safetensors; convert the GGUF file, or take 'gptq'")
    settings = {
        "bits": request.option("bits", 4),
        "group_size": request.option("group_size", 64),
        "sym": request.option("symmetric", True),
        "desc_act": request.option("act_order", False),
        "damp_percent": request.option("damping", 0.05),
    }
    made_with = {
        "settings": settings,
        "gptqmodel": version("gptqmodel"),
        "calibration": corpus_fingerprint(request.calibration_documents()),
        "tokens": request.option("calibration_tokens", None),
    }
    target = cache_directory() / f"gptqmodel-{request.files.fingerprint(made_with)[:32]}"
    checkpoint = built_once(target, lambda scratch: _quantize(request, settings, scratch))
    return load_float(replace(request, files=LocalFiles(checkpoint)))


def _quantize(request: LoadRequest, settings: dict[str, Any], directory: Path) -> None:
    from gptqmodel import GPTQModel, QuantizeConfig

    try:
        configuration = QuantizeConfig(**settings)
    except ValueError as error:
        raise request.wrong(error) from error
    batches = [
        {"input_ids": ids.cpu(), "attention_mask": torch.ones_like(ids.cpu())}
        for ids in request.calibration_batches()
    ]
    source, target = request.files.directory.resolve(), directory.resolve()
    # It writes its logs into the current directory, which is the user's project.
    with tempfile.TemporaryDirectory() as elsewhere, contextlib.chdir(elsewhere):
        model = GPTQModel.load(
            str(source), configuration, device=str(request.device), dtype=request.dtype
        )
        model.quantize(batches, batch_size=1)
        model.save(str(target))
    _restore_padding(request, directory)


def _restore_padding(request: LoadRequest, directory: Path) -> None:
    """Undo what gptqmodel's tokenizer adds: a padding id that may be beyond the vocabulary."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config["pad_token_id"] = read_config(request.files.directory).get("pad_token_id")
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
