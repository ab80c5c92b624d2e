"""Quantizing a model in place: its linear layers are replaced, everything else stays.

Which layers: `linear_layers`. A tied output head stays, since the embedding keeps its float matrix
anyway and quantizing it would add bytes.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ..linear_layers import (
    DEFAULT_SKIP,
    select_linear_layers,
    weights_outside_linear_layers,
)
from .linear import QuantizedLinear
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

    def __str__(self) -> str:
        return (
            f"{len(self.quantized)} layers to {self.scheme}, {len(self.skipped)} skipped: "
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
    skip: Iterable[str] = DEFAULT_SKIP,
    include_tied: bool = False,
) -> QuantizationReport:
    """Replaces the `nn.Linear` layers of a model by `QuantizedLinear`, in place.

    Args:
        model: any module, for instance a transformers model.
        scheme: the format of all weights.
        skip: module names to leave alone. A name stands for every module whose dotted path has it
            as consecutive parts: "down_proj", "layers.0", "lm_head". ``()`` takes the head too.
        include_tied: quantize also a layer whose weight an embedding shares; the embedding keeps
            the float weight, and the two are no longer tied.

    Raises:
        ValueError: a name in skip matches no module, nothing is left to quantize, or a weight
            cannot be quantized; the message names the layer.
    """
    layers, skipped = select_linear_layers(model, skip, include_tied=include_tied)
    before, shared = model_bytes(model), weights_outside_linear_layers(model)
    replace_linear_layers(model, layers, scheme)
    if any(id(layer.weight) in shared for layer in layers.values()):
        _untie(model)
    return QuantizationReport(scheme, tuple(layers), skipped, before, model_bytes(model))


def replace_linear_layers(
    model: nn.Module, layers: dict[str, nn.Linear], scheme: QuantizationScheme
) -> None:
    """Puts quantized layers in; layers that share a weight share its codes."""
    weights: dict[int, QuantizedTensor] = {}
    modules: dict[int, QuantizedLinear] = {}
    for name, layer in layers.items():
        if id(layer.weight) not in weights:
            try:
                weights[id(layer.weight)] = quantize(layer.weight, scheme)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        if id(layer) not in modules:
            quantized = QuantizedLinear(weights[id(layer.weight)], layer.bias)
            modules[id(layer)] = quantized.train(layer.training)
    # Only now, so that a weight which cannot be quantized leaves the model as it was.
    for name, layer in layers.items():
        model.set_submodule(name, modules[id(layer)])


def _untie(model: nn.Module) -> None:
    # Else saving or resizing a transformers model would tie the weights again.
    config = getattr(model, "config", None)
    if getattr(config, "tie_word_embeddings", False):
        config.tie_word_embeddings = False  # type: ignore[union-attr]  # it has the field
