"""What the quantizer suites talk to: minimal protocols that a thin adapter makes a library fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from infopt_reference.quantization import QuantizationScheme
from torch import Tensor


class Quantizer(Protocol):
    """Rounds a weight to few bits and back, in one scheme.

    ``quantized`` is whatever the implementation makes; the suite hands it back unseen. An
    implementation whose levels lie otherwise than its scheme says has an attribute ``grid``
    (`grids.Grid`). The methods of `CodesShown`, `ScalesShown` and `StateKept` are capabilities.
    """

    def quantize(self, weight: Tensor) -> Any:
        """The weight as codes and constants."""

    def dequantize(self, quantized: Any) -> Tensor:
        """The weight again, in its own shape and dtype."""


class CodesShown(Quantizer, Protocol):
    """Capability "codes"."""

    def codes(self, quantized: Any) -> Tensor:
        """Integer codes in the weight's shape, before packing."""


class ScalesShown(Quantizer, Protocol):
    """Capability "scales"."""

    def scales(self, quantized: Any) -> Tensor:
        """One scale for each group, as decoding uses them."""


class StateKept(Quantizer, Protocol):
    """Capability "state"."""

    def state(self, quantized: Any) -> Mapping[str, Tensor]:
        """Every tensor that has to be kept to decode the weight later."""

    def restore(self, state: Mapping[str, Tensor], quantized: Any) -> Any:
        """A quantized weight from such tensors; what is no tensor may be taken from the other."""


class MakeQuantizer(Protocol):
    """The factory that `QuantizerSuite` asks for."""

    def __call__(self, scheme: QuantizationScheme) -> Quantizer:
        """A quantizer of that scheme, with no memory of others."""


class Packing(Protocol):
    """Codes of few bits, side by side in bytes."""

    def pack(self, codes: Tensor, bits: int) -> Tensor:
        """Codes [n] (int8 where signed, else uint8) as bytes or words."""

    def unpack(self, packed: Tensor, bits: int, count: int, signed: bool) -> Tensor:
        """The first ``count`` codes again, int8 or uint8 [count]."""


class Codebook(Protocol):
    """A table of levels, or a small floating-point format, without scales."""

    def encode(self, values: Tensor) -> Tensor:
        """The code, uint8, of the level nearest to each value, float32 [n]."""

    def decode(self, codes: Tensor) -> Tensor:
        """The levels, float32 [n], of codes."""
