"""Quantizing a model in place: its linear layers are replaced, everything else stays.

Left out are embeddings (a table look-up, not a product), layers that the caller names, and weights
shared with a module that is not a linear layer: a tied output head, whose float matrix the
embedding keeps anyway, so that quantizing it would add bytes.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from .linear import QuantizedLinear
from .quantized import QuantizedTensor, quantize
from .scheme import QuantizationScheme

DEFAULT_SKIP = ("lm_head",)


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
    skip = tuple(skip)
    _check_skip(model, skip)
    before = model_bytes(model)
    shared = _weights_outside_linears(model)
    layers: dict[str, nn.Linear] = {}
    skipped: list[str] = []
    # Subclasses are left alone: some read .weight themselves (nn.MultiheadAttention's out_proj).
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) is nn.Linear:
            tied = id(module.weight) in shared and not include_tied
            if tied or any(_matches(name, part) for part in skip):
                skipped.append(name)
            else:
                layers[name] = module
    if not layers:
        raise ValueError(
            f"no nn.Linear layer left to quantize; skipped: {', '.join(skipped) or 'none'}"
        )
    _replace(model, layers, scheme)
    if any(id(layer.weight) in shared for layer in layers.values()):
        _untie(model)
    return QuantizationReport(scheme, tuple(layers), tuple(skipped), before, model_bytes(model))


def _replace(model: nn.Module, layers: dict[str, nn.Linear], scheme: QuantizationScheme) -> None:
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


def _weights_outside_linears(model: nn.Module) -> set[int]:
    return {
        id(parameter)
        for module in model.modules()
        if type(module) is not nn.Linear
        for parameter in module.parameters(recurse=False)
    }


def _untie(model: nn.Module) -> None:
    # Else saving or resizing a transformers model would tie the weights again.
    config = getattr(model, "config", None)
    if getattr(config, "tie_word_embeddings", False):
        config.tie_word_embeddings = False  # type: ignore[union-attr]  # it has the field


def _matches(name: str, part: str) -> bool:
    return f".{part}." in f".{name}."


def _check_skip(model: nn.Module, skip: tuple[str, ...]) -> None:
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for part in skip:
        # The default must suit models without a head too.
        if part not in DEFAULT_SKIP and not any(_matches(name, part) for name in names):
            raise ValueError(f"skip names {part!r}, which is in no module's path of this model")
