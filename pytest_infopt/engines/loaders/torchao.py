"""Loaders of torchao: the float model, its linear layers changed by ``quantize_``.

Not through transformers' TorchAoConfig: with that the layers which an embedding shares its weight
with are left out by name alone, while here one rule holds for all quantizers.
"""

from __future__ import annotations

from typing import Any

import torch
from infopt_reference.weight_matrices import DEFAULT_SKIP, select_weight_matrices

from .checkpoint import load_to_optimise
from .request import LoadRequest

_GROUP_SIZE = 64


def load_torchao(request: LoadRequest) -> torch.nn.Module:
    """Int8 with or without int8 activations, int4 or float8 weights, by the format's name."""
    from torchao.quantization import quantize_

    module = load_to_optimise(request)
    layers = linear_layers(request, module)
    quantize_(module, _configuration(request), filter_fn=lambda _, name: name in layers)
    return module


def linear_layers(request: LoadRequest, module: torch.nn.Module) -> set[str]:
    """Names of the layers that a library is to quantize: of those that the reference would take,
    the `nn.Linear` ones. What it leaves alone, experts for instance, the memory gate shows."""
    try:
        selection = select_weight_matrices(module, tuple(request.option("skip", DEFAULT_SKIP)))
    except ValueError as error:
        raise request.wrong(error) from error
    layers = {n for n, matrix in selection.chosen.items() if type(matrix.module) is torch.nn.Linear}
    if not layers:
        kinds = sorted({type(matrix.module).__name__ for matrix in selection.chosen.values()})
        raise request.wrong(
            f"the library quantizes nn.Linear alone, and the model's weights are in "
            f"{', '.join(kinds)}; take one of this project's formats, such as 'int8' or 'int4'"
        )
    return layers


def _configuration(request: LoadRequest) -> Any:
    from torchao import quantization
    from torchao.quantization.granularity import PerGroup

    match request.source.quantization:
        case "torchao-int8":
            return quantization.Int8WeightOnlyConfig()
        case "torchao-int8-dynamic":
            return quantization.Int8DynamicActivationInt8WeightConfig()
        case "torchao-float8":
            return quantization.Float8WeightOnlyConfig()
    # Int4WeightOnlyConfig has kernels for some GPUs alone; this one runs everywhere.
    group_size = request.option("group_size", _GROUP_SIZE)
    return quantization.IntxWeightOnlyConfig(
        weight_dtype=torch.int4,  # type: ignore[attr-defined]  # not in the stubs of torch
        granularity=PerGroup(group_size),
    )
