"""Quantizing a model in place: its weight matrices are replaced, everything else stays.

Which matrices: `weight_matrices`. A tied output head stays, since the embedding keeps its float
matrix anyway and quantizing it would add bytes. Layers become quantized layers (`linear`), experts
and the like are decoded when they are read (`packed_weight`).

Calibrated methods (`methods`) take the decoder block by block (`layerwise`), then the layers
outside its blocks, such as the head, from one more pass through the whole model. What calibration
does not reach is rounded to nearest in the same scheme, and the report says so: a layer whose
weight is read in place of calling it (Mamba's dt_proj), an expert that no token chose, and, for
methods that quantize activations, all experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from ..weight_matrices import DEFAULT_SKIP, WeightMatrix, evaluating, select_weight_matrices
from .checks import naming, require_finite
from .experts import quantize_experts
from .layerwise import (
    CalibratedModule,
    CalibrationBatch,
    block_calls,
    decoder_blocks,
    model_calls,
)
from .linear import QuantizedLinear
from .methods import AWQ, GPTQ, LLMInt8, RoundToNearest, SmoothQuant, quantization_method
from .packed_weight import decode_on_access
from .quantized import QuantizedTensor, quantize, separable
from .scheme import QuantizationScheme


@dataclass(frozen=True)
class QuantizationReport:
    """What `quantize_model` did. Bytes are those of all parameters and buffers of the model."""

    scheme: QuantizationScheme
    quantized: tuple[str, ...]  # names of the layers and stacks of matrices
    skipped: Mapping[str, str]  # other parameters of two or more axes, with the reason
    bytes_before: int
    bytes_after: int
    method: str = "rtn"
    calibration_tokens: int = 0  # padding not counted
    rounded: Mapping[str, str] = field(default_factory=dict)  # to nearest alone, with the reason

    def __str__(self) -> str:
        calibration = f" on {self.calibration_tokens} tokens" if self.calibration_tokens else ""
        rounded = f" ({len(self.rounded)} rounded to nearest alone)" if self.rounded else ""
        return (
            f"{len(self.quantized)} matrices to {self.scheme} by {self.method}{calibration}"
            f"{rounded}, {len(self.skipped)} skipped: "
            f"{self.bytes_before} → {self.bytes_after} bytes "
            f"({self.bytes_after / self.bytes_before:.3f}x)"
        )


def model_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, shared ones counted once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.nbytes for tensor in tensors)


def quantize_model(
    model: nn.Module,
    scheme: QuantizationScheme,
    *,
    method: str = "rtn",
    calibration: Iterable[CalibrationBatch] | None = None,
    skip: Iterable[str] = DEFAULT_SKIP,
    include_tied: bool = False,
    **options: Any,
) -> QuantizationReport:
    """Quantizes the weight matrices of a model, in place.

    Args:
        model: any module, for instance a transformers model.
        scheme: the format of all weights.
        method: a name in `methods.METHODS`.
        calibration: for a calibrated method: token ids [B, T], or dicts with ``input_ids`` and
            ``attention_mask``.
        skip: names to leave alone, as in `select_weight_matrices`. ``()`` takes the head too.
        include_tied: quantize also a layer whose weight an embedding shares; the embedding keeps
            the float weight, and the two are no longer tied.
        options: of the method, fields of its class in `methods`.

    Raises:
        ValueError: a name in skip matches nothing, nothing is left to quantize, a weight cannot
            be quantized (the message names the layer), the method or an option is unknown,
            calibration is missing or not used, or the method does not know the architecture. A
            calibrated method that fails on the way leaves the blocks before it quantized.
    """
    chosen = quantization_method(method, **options)
    if chosen.calibrated != (calibration is not None):
        need = "needs calibration" if chosen.calibrated else "takes no calibration"
        raise ValueError(f"method {method!r} {need}: batches of token ids")
    selection = select_weight_matrices(model, skip, include_tied=include_tied)
    matrices, before, tokens = dict(selection.chosen), model_bytes(model), 0
    tied = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    untied = any(id(matrix.parameter) in tied for matrix in matrices.values())
    if isinstance(chosen, RoundToNearest | LLMInt8):
        rounded = {} if isinstance(chosen, RoundToNearest) else _stacks(matrices)
        replace_weights(model, matrices, scheme, chosen)
    else:
        tokens, rounded = _calibrate(model, matrices, scheme, chosen, calibration or ())
    if untied:
        _untie(model)
    return QuantizationReport(
        scheme,
        tuple(selection.chosen),
        selection.skipped,
        before,
        model_bytes(model),
        method,
        tokens,
        rounded,
    )


def replace_weights(
    model: nn.Module,
    matrices: Mapping[str, WeightMatrix],
    scheme: QuantizationScheme,
    method: RoundToNearest | LLMInt8 = RoundToNearest(),  # noqa: B008  immutable
) -> None:
    """Puts quantized weights in, each to the nearest; those that share a weight share its codes."""
    weights: dict[int, QuantizedTensor] = {}
    modules: dict[int, QuantizedLinear] = {}
    for name, matrix in matrices.items():
        parameter = id(matrix.parameter)
        with naming(name):
            if parameter not in weights:
                weights[parameter] = quantize(matrix.rows, scheme)
            if matrix.is_layer and id(matrix.module) not in modules:
                layer = method.layer(weights[parameter], matrix.bias)
                modules[id(matrix.module)] = layer.train(matrix.module.training)
    # Only now, so that a weight which cannot be quantized leaves the model as it was.
    for matrix in matrices.values():
        if matrix.is_layer:
            model.set_submodule(matrix.path, modules[id(matrix.module)])
        elif matrix.parameter_name in matrix.module._parameters:  # a module has several names
            decode_on_access(matrix, weights[id(matrix.parameter)])


def _calibrate(
    model: nn.Module,
    matrices: dict[str, WeightMatrix],
    scheme: QuantizationScheme,
    method: GPTQ | AWQ | SmoothQuant,
    calibration: Iterable[CalibrationBatch],
) -> tuple[int, dict[str, str]]:
    """Quantizes block by block; the number of calibration tokens, and what was only rounded.

    ``matrices`` is used up.
    """
    _check_before_calibration(matrices)
    path, blocks = decoder_blocks(model)
    calls = model_calls(calibration, next(model.parameters()).device)
    rounded: dict[str, str] = {}
    with evaluating(model):
        inputs = block_calls(model, blocks, calls)
        for index, block in enumerate(blocks):
            calibrated = CalibratedModule(block, inputs[index])
            prefix = f"{path}.{index}."
            if inner := _taken(matrices, prefix):
                with naming(f"{path}.{index}"):
                    found = _calibrate_block(calibrated, inner, scheme, method)
                rounded |= {f"{prefix}{name}": reason for name, reason in found.items()}
            if index + 1 < len(blocks):
                inputs[index + 1] = calibrated.pass_on(inputs[index + 1])
            inputs[index] = []
        if matrices:
            outside = CalibratedModule(model, calls, is_decoder_block=False)
            rounded |= _calibrate_block(outside, _taken(matrices, ""), scheme, method)
    return sum(call.tokens for call in calls), rounded


def _calibrate_block(
    block: CalibratedModule,
    matrices: dict[str, WeightMatrix],
    scheme: QuantizationScheme,
    method: GPTQ | AWQ | SmoothQuant,
) -> dict[str, str]:
    """Quantizes what the calibration reaches by the method, the rest to the nearest level.

    The names of the rest, with the reason.
    """
    layers = {name: matrix for name, matrix in matrices.items() if matrix.is_layer}
    reached = {name for group in block.input_groups(layers) for name in group}
    if reached:
        method.quantize(block, {name: m for name, m in layers.items() if name in reached}, scheme)
    rest = {name: matrix for name, matrix in matrices.items() if name not in reached}
    rounded = dict.fromkeys(rest, "no calibration token reached this layer") | _stacks(rest)
    if isinstance(method, GPTQ | AWQ) and separable(scheme):
        stacks = {name: matrix for name, matrix in rest.items() if not matrix.is_layer}
        for name, reason in quantize_experts(block, stacks, scheme, method.expert).items():
            rounded[name] = reason
            if not reason:
                del rounded[name]
    left = {name: m for name, m in rest.items() if m.parameter_name in m.module._parameters}
    replace_weights(block.module, left, scheme)
    return rounded


def _taken(matrices: dict[str, WeightMatrix], prefix: str) -> dict[str, WeightMatrix]:
    """Takes the matrices below a path out, by names that begin there."""
    names = [name for name in matrices if name.startswith(prefix)]
    found = [matrices.pop(name) for name in names]
    inner = [replace(matrix, path=matrix.path.removeprefix(prefix)) for matrix in found]
    return {matrix.name: matrix for matrix in inner}


def _stacks(matrices: Mapping[str, WeightMatrix]) -> dict[str, str]:
    """The matrices that belong to no layer, each with what a method of layers can't do for it."""
    return {
        name: f"{type(matrix.module).__name__} computes the products itself: weights alone"
        for name, matrix in matrices.items()
        if not matrix.is_layer
    }


def _check_before_calibration(matrices: dict[str, WeightMatrix]) -> None:
    owners: dict[int, str] = {}
    for name, matrix in matrices.items():
        parameter = matrix.parameter
        if id(parameter) in owners:
            raise ValueError(
                f"{name} shares its weight with {owners[id(parameter)]}; calibrated methods "
                "quantize a weight for one place: skip one of them, or use method='rtn'"
            )
        owners[id(parameter)] = name
        with naming(name):
            require_finite(parameter, "weight")


def _untie(model: nn.Module) -> None:
    # Else saving or resizing a transformers model would tie the weights again.
    config = getattr(model, "config", None)
    if getattr(config, "tie_word_embeddings", False):
        config.tie_word_embeddings = False  # type: ignore[union-attr]  # it has the field
