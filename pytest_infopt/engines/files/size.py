"""About how many parameters a model has, from the sizes of its files."""

from __future__ import annotations

import re
from pathlib import Path

from ...release import ModelSource
from ..formats import DTYPES
from .checkpoints import checkpoint_config
from .embedded import EMBEDDED_MODELS, PREFIX

_GGUF_SCALE_BITS = 0.5  # of a block's scale, per weight
_HALF = 16


def parameters_of(source: ModelSource) -> int | None:
    """About how many; None where its files are not here, as those of a model hub."""
    if source.model.startswith(PREFIX):
        known = EMBEDDED_MODELS.get(source.model.removeprefix(PREFIX))
        return None if known is None else known.parameters
    directory = Path(source.model)
    if not directory.is_dir():
        return None
    if source.gguf_file is not None:
        files, bits = [directory / source.gguf_file], _gguf_bits(source.gguf_file)
    else:
        config = checkpoint_config(source.model)
        stored = str(config.get("dtype", config.get("torch_dtype")))
        files, bits = sorted(directory.glob("*.safetensors")), float(DTYPES.get(stored, _HALF))
    size = sum(path.stat().st_size for path in files if path.is_file())
    return round(8 * size / bits) if size else None


def gguf_width(name: str) -> int | None:
    """The bits that a GGUF file's name tells, by llama.cpp's convention: model-Q4_K_M.gguf,
    model-IQ3_XS.gguf, model-f16.gguf. None where it tells none."""
    name = name.upper()
    if floats := re.search(r"(?<![A-Z])(?:BF16|F16|FP16|F32|FP32)(?![0-9])", name):
        return 32 if "32" in floats[0] else 16
    code = re.search(r"(?<![A-Z0-9])(?:I?Q|TQ)([1-8])(?:_|\.|-)", name)
    return int(code[1]) if code else None


def _gguf_bits(name: str) -> float:
    width = gguf_width(name) or _HALF
    return width if width >= _HALF else width + _GGUF_SCALE_BITS
