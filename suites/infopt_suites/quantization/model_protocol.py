"""What `ModelQuantizerSuite` talks to."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from infopt_reference.quantization import QuantizationScheme
from torch import Tensor, nn


class ModelQuantizer(Protocol):
    """Quantizes the weight matrices of a whole model.

    An attribute ``grid`` (`grids.Grid`) says how levels lie, as of a quantizer of weights. A method
    ``matrix`` (`ShowsMatrices`) is needed only where a matrix can't be read as the suite does.
    """

    def __call__(self, model: nn.Module) -> nn.Module | None:
        """The quantized model; None where it is the given one, changed in place."""


class ReportsLeftAlone(ModelQuantizer, Protocol):
    """Capability "left-alone"."""

    def left_alone(self, model: nn.Module) -> Collection[str]:
        """Parameters of two or more axes that the quantizer leaves as they are, of a float model.

        By their own names, or by those of their modules.
        """


class ShowsMatrices(ModelQuantizer, Protocol):
    """Optional. Without it a layer is asked for the products with unit vectors, and the parameter
    of any other module is read by its name, and ``dequantize()`` called where it has that."""

    def matrix(self, model: nn.Module, name: str) -> Tensor:
        """What the quantized model multiplies by in the place of the parameter of that name: a
        matrix [out, in], or a stack of experts' [E, out, in], whichever way it is stored."""


class MakeModelQuantizer(Protocol):
    """The factory that `ModelQuantizerSuite` asks for."""

    def __call__(self, scheme: QuantizationScheme) -> ModelQuantizer:
        """A quantizer of models in that scheme, with no memory of others."""
