"""A float model, its quantized one, and what became of each parameter."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, cast

import torch
from infopt_reference.quantization import QuantizationScheme
from torch import Tensor, nn

from .grids import Grid, grid_of
from .model_protocol import ModelQuantizer, ShowsMatrices
from .whole_models import TABLE, VOCABULARY, WholeModel, named_tensors

_UNIT = 64.0  # unit vectors are that long, so that a bias costs little precision
_CALLED = ("linear", "conv1d", "subclass", "own")


@dataclass(frozen=True)
class Declared:
    """What an implementation says about the matrices that it takes."""

    takes: Collection[str]
    leaves_alone: Collection[str]
    tied_head: str

    def leaves(self, name: str) -> bool:
        """Whether a name has one of ``leaves_alone`` as consecutive parts."""
        return any(f".{part}." in f".{name}." for part in self.leaves_alone)


@dataclass(frozen=True)
class ModelTrial:
    """One of `whole_models.MODELS`, and how quantizers are made."""

    make: Callable[[], ModelQuantizer]
    case: WholeModel
    name: str
    scheme: QuantizationScheme
    dtype: torch.dtype
    declared: Declared

    @functools.cached_property
    def model(self) -> nn.Module:
        """The float model, which no quantizer gets."""
        return self.case.make(self.dtype)

    def quantized(self, model: nn.Module | None = None, by: ModelQuantizer | None = None) -> Any:
        """What a quantizer, a fresh one by default, makes of a copy of the model, or of another."""
        given = copy.deepcopy(self.model if model is None else model)
        return applied(by or self.make(), given)

    @functools.cached_property
    def grid(self) -> Grid:
        """How the implementation lays its levels."""
        return getattr(self.make(), "grid", None) or grid_of(self.scheme)

    @functools.cached_property
    def matrices(self) -> tuple[str, ...]:
        """The names of all weight matrices; shared ones under each name."""
        named = self.model.named_parameters(remove_duplicate=False)
        return tuple(name for name, _ in named if self.case.kind(name))

    @functools.cached_property
    def taken(self) -> tuple[str, ...]:
        """The names of the matrices that the implementation declares to quantize."""
        return tuple(name for name in self.matrices if self._is_taken(name))

    @functools.cached_property
    def kept(self) -> dict[str, Tensor]:
        """Every other tensor of the float model, by name."""
        return {k: t for k, t in named_tensors(self.model) if k not in self.taken}

    @functools.cached_property
    def tied(self) -> tuple[tuple[str, str], ...]:
        """Pairs of names of one matrix, of which the first is an embedding's."""
        first = {
            id(self.model.get_parameter(name)): name
            for name in self.matrices
            if self.case.kind(name) == TABLE
        }
        return tuple(
            (first[id(self.model.get_parameter(name))], name)
            for name in self.matrices
            if self.case.kind(name) != TABLE and id(self.model.get_parameter(name)) in first
        )

    def original(self, name: str) -> Tensor:
        """The float matrix [out, in], or the stack [E, out, in]."""
        parameter = self.model.get_parameter(name).detach()
        return parameter.mT if self._turned(name) else parameter

    def matrix(self, model: nn.Module, name: str) -> Tensor:
        """What a quantized model multiplies by, [out, in] or [E, out, in], in the model's dtype."""
        quantizer = self.make()
        if hasattr(quantizer, "matrix"):
            return cast(ShowsMatrices, quantizer).matrix(model, name).detach()
        path, _, leaf = name.rpartition(".")
        module: Any = model.get_submodule(path)
        with torch.no_grad():
            if self.case.kind(name) == TABLE:
                return cast(Tensor, module(torch.arange(VOCABULARY))).detach()
            if self.case.kind(name) in _CALLED:
                return self._products(module, name)
        read: Any = getattr(module, leaf).detach()
        found: Tensor = read.dequantize() if hasattr(read, "dequantize") else read
        return found.mT if self._turned(name) else found

    def is_as_it_was(self, model: nn.Module, name: str) -> bool:
        """Whether a quantized model multiplies by the float matrix, as far as can be read."""
        apart = (self.matrix(model, name).double() - self.original(name).double()).abs()
        return bool((apart <= self.reading_error(name)).all())

    def reading_error(self, name: str) -> Tensor:
        """What `matrix` may add to the error of a weight: each product is rounded once more.

        float64, in the shape of `original`.
        """
        eps, weight = torch.finfo(self.dtype).eps, self.original(name).double().abs()
        owner = self.model.get_submodule(name.rpartition(".")[0])
        bias: Tensor | None = getattr(owner, "bias", None)
        if bias is None or self.case.kind(name) not in _CALLED:
            return eps * weight
        return eps * (weight + bias.detach().abs()[:, None] / _UNIT)

    def with_matrices(self, model: nn.Module) -> nn.Module:
        """The float model, its matrices replaced by what the quantized one multiplies by."""
        expected = copy.deepcopy(self.model)
        for embedding, name in self.tied:
            if self.declared.tied_head == "untied":
                _own_parameter(expected, name, expected.get_parameter(embedding).clone())
        for name in self.taken:
            found = self.matrix(model, name)
            stored = found.mT if self._turned(name) else found
            expected.get_parameter(name).data.copy_(stored)
        return expected

    def _products(self, module: nn.Module, name: str) -> Tensor:
        size = self.original(name).shape[1]
        inputs = torch.eye(size, dtype=self.dtype) * _UNIT
        products: Tensor = module(inputs) - module(torch.zeros_like(inputs))
        owner = self.model.get_submodule(name.rpartition(".")[0])
        return products.mT / (_UNIT * getattr(owner, "factor", 1.0))

    def _turned(self, name: str) -> bool:
        return self.case.kind(name) in self.case.turned

    def _is_taken(self, name: str) -> bool:
        pairs = [pair for pair in self.tied if name in pair]
        if pairs and self.declared.tied_head == "shared":
            return not any(self.declared.leaves(part) for part in pairs[0])
        if pairs and self.declared.tied_head == "left":
            return False
        return self.case.kind(name) in self.declared.takes and not self.declared.leaves(name)


def applied(quantizer: ModelQuantizer, model: nn.Module) -> nn.Module:
    """The quantized model, returned or changed in place. Raises TypeError for anything else."""
    found: object = quantizer(model)
    if found is not None and not isinstance(found, nn.Module):
        raise TypeError(
            f"a quantizer returned a {type(found).__name__}; return the model, or None where the "
            "given one was changed in place"
        )
    return model if found is None else found


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal in every bit, dtype, device and shape."""
    alike = one.dtype is other.dtype and one.device == other.device and one.shape == other.shape
    if not alike or type(one.data) is not type(other.data):
        return False
    return torch.equal(_bytes(one), _bytes(other))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _own_parameter(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, nn.Parameter(value.detach()))
