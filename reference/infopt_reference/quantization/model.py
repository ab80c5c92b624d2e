"""Quantizing a model in place: its linear layers are replaced, everything else stays.

Which layers: `linear_layers`. A tied output head stays, since the embedding keeps its float matrix
anyway and quantizing it would add bytes.

Calibrated methods (`methods`) take the decoder block by block (`layerwise`), then the layers
outside its blocks, such as the head, from one more pass through the whole model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..linear_layers import (
    DEFAULT_SKIP,
    evaluating,
    select_linear_layers,
    weights_outside_linear_layers,
)
from .checks import naming, require_finite
from .layerwise import (
    CalibratedModule,
    CalibrationBatch,
    block_calls,
    decoder_blocks,
    model_calls,
)
from .linear import QuantizedLinear
from .methods import AWQ, GPTQ, LLMInt8, RoundToNearest, SmoothQuant, quantization_method
from .quantized import QuantizedTensor, quantize
from .scheme import QuantizationScheme


@dataclass(frozen=True)
class QuantizationReport:
    """What `quantize_model` did. Bytes are those of all parameters and buffers of the model."""

    scheme: QuantizationScheme
    quantized: tuple[str, ...]  # names of the layers replaced
    skipped: tuple[str, ...]  # linear layers left alone
    bytes_before: int
    bytes_after: int
    method: str = "rtn"
    calibration_tokens: int = 0  # padding not counted

    def __str__(self) -> str:
        calibration = f" on {self.calibration_tokens} tokens" if self.calibration_tokens else ""
        return (
            f"{len(self.quantized)} layers to {self.scheme} by {self.method}{calibration}, "
            f"{len(self.skipped)} skipped: "
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
    """Replaces the `nn.Linear` layers of a model by `QuantizedLinear`, in place.

    Args:
        model: any module, for instance a transformers model.
        scheme: the format of all weights.
        method: a name in `methods.METHODS`.
        calibration: for a calibrated method: token ids [B, T], or dicts with ``input_ids`` and
            ``attention_mask``.
        skip: module names to leave alone. A name stands for every module whose dotted path has it
            as consecutive parts: "down_proj", "layers.0", "lm_head". ``()`` takes the head too.
        include_tied: quantize also a layer whose weight an embedding shares; the embedding keeps
            the float weight, and the two are no longer tied.
        options: of the method, fields of its class in `methods`.

    Raises:
        ValueError: a name in skip matches no module, nothing is left to quantize, a weight cannot
            be quantized (the message names the layer), the method or an option is unknown,
            calibration is missing or not used, or the method does not know the architecture. A
            calibrated method that fails on the way leaves the blocks before it quantized.
    """
    chosen = quantization_method(method, **options)
    if chosen.calibrated != (calibration is not None):
        need = "needs calibration" if chosen.calibrated else "takes no calibration"
        raise ValueError(f"method {method!r} {need}: batches of token ids")
    layers, skipped = select_linear_layers(model, skip, include_tied=include_tied)
    before, shared = model_bytes(model), weights_outside_linear_layers(model)
    names, tokens = tuple(layers), 0
    untied = any(id(layer.weight) in shared for layer in layers.values())
    if isinstance(chosen, RoundToNearest | LLMInt8):
        replace_linear_layers(model, layers, scheme, chosen)
    else:
        tokens = _calibrate(model, layers, scheme, chosen, calibration or ())
    if untied:
        _untie(model)
    after = model_bytes(model)
    return QuantizationReport(scheme, names, skipped, before, after, method, tokens)


def replace_linear_layers(
    model: nn.Module,
    layers: dict[str, nn.Linear],
    scheme: QuantizationScheme,
    method: RoundToNearest | LLMInt8 = RoundToNearest(),  # noqa: B008  immutable
) -> None:
    """Puts quantized layers in; layers that share a weight share its codes."""
    weights: dict[int, QuantizedTensor] = {}
    modules: dict[int, QuantizedLinear] = {}
    for name, layer in layers.items():
        with naming(name):
            if id(layer.weight) not in weights:
                weights[id(layer.weight)] = quantize(layer.weight, scheme)
            if id(layer) not in modules:
                quantized = method.layer(weights[id(layer.weight)], layer.bias)
                modules[id(layer)] = quantized.train(layer.training)
    # Only now, so that a weight which cannot be quantized leaves the model as it was.
    for name, layer in layers.items():
        model.set_submodule(name, modules[id(layer)])


def _calibrate(
    model: nn.Module,
    layers: dict[str, nn.Linear],
    scheme: QuantizationScheme,
    method: GPTQ | AWQ | SmoothQuant,
    calibration: Iterable[CalibrationBatch],
) -> int:
    """Quantizes block by block; the number of calibration tokens. ``layers`` is used up."""
    _check_before_calibration(layers)
    path, blocks = decoder_blocks(model)
    calls = model_calls(calibration, next(model.parameters()).device)
    with evaluating(model):
        inputs = block_calls(model, blocks, calls)
        for index, block in enumerate(blocks):
            calibrated = CalibratedModule(block, inputs[index])
            if inner := _taken(layers, f"{path}.{index}."):
                with naming(f"{path}.{index}"):
                    method.quantize(calibrated, inner, scheme)
            inner.clear()
            if index + 1 < len(blocks):
                inputs[index + 1] = calibrated.pass_on(inputs[index + 1])
            inputs[index] = []
        if layers:
            outside = CalibratedModule(model, calls, is_decoder_block=False)
            method.quantize(outside, _taken(layers, ""), scheme)
    return sum(call.tokens for call in calls)


def _taken(layers: dict[str, nn.Linear], prefix: str) -> dict[str, nn.Linear]:
    """Takes the layers below a path out: their float weights are freed as they are replaced."""
    names = [name for name in layers if name.startswith(prefix)]
    return {name.removeprefix(prefix): layers.pop(name) for name in names}


def _check_before_calibration(layers: dict[str, nn.Linear]) -> None:
    owners: dict[int, str] = {}
    for name, layer in layers.items():
        if id(layer.weight) in owners:
            raise ValueError(
                f"{name} shares its weight with {owners[id(layer.weight)]}; calibrated methods "
                "quantize a weight for one place: skip one of them, or use method='rtn'"
            )
        owners[id(layer.weight)] = name
        with naming(name):
            require_finite(layer.weight, "weight")


def _untie(model: nn.Module) -> None:
    # Else saving or resizing a transformers model would tie the weights again.
    config = getattr(model, "config", None)
    if getattr(config, "tie_word_embeddings", False):
        config.tie_word_embeddings = False  # type: ignore[union-attr]  # it has the field
