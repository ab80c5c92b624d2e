"""Loaders of optimum-quanto: weights in 8 or 4 bits, activations as they are."""

from __future__ import annotations

import torch

from .checkpoint import load_to_optimise
from .request import LoadRequest
from .torchao import linear_layers


def load_quanto(request: LoadRequest) -> torch.nn.Module:
    """Int8 per channel, or int4 in groups of 128 where that divides a row, else 64 or 32."""
    from optimum.quanto import freeze, qint4, qint8, quantize

    module = load_to_optimise(request)
    weights = qint4 if request.source.quantization == "quanto-int4" else qint8
    quantize(module, weights=weights, include=sorted(linear_layers(request, module)))
    freeze(module)
    return module
