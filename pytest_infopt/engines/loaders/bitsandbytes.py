"""Loaders of bitsandbytes, through transformers."""

from __future__ import annotations

from typing import Any

import torch

from ...errors import ConfigurationError
from .checkpoint import load_float
from .request import LoadRequest


def load_bitsandbytes_int8(request: LoadRequest) -> torch.nn.Module:
    """LLM.int8(): 8-bit weights, outlier columns in 16 bit (Dettmers et al. 2022)."""
    return _load(
        request,
        load_in_8bit=True,
        llm_int8_threshold=float(request.option("threshold", 6.0)),
        llm_int8_skip_modules=request.option("skip", None),
    )


def load_bitsandbytes_4bit(request: LoadRequest) -> torch.nn.Module:
    """NF4 or FP4 weights in blocks of 64, double quantization on (QLoRA: Dettmers et al. 2023)."""
    return _load(
        request,
        load_in_4bit=True,
        bnb_4bit_quant_type=request.source.quantization.rpartition("-")[2],
        bnb_4bit_use_double_quant=bool(request.option("double_quantization", True)),
        bnb_4bit_compute_dtype=request.dtype,
        llm_int8_skip_modules=request.option("skip", None),
    )


def _load(request: LoadRequest, **settings: Any) -> torch.nn.Module:
    if request.dtype is torch.float64:
        raise ConfigurationError(
            f"model {request.source.name!r}: bitsandbytes has no float64 kernels; choose float32, "
            "float16 or bfloat16"
        )
    from transformers import BitsAndBytesConfig

    return load_float(request, quantization_config=BitsAndBytesConfig(**settings))
