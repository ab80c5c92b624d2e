"""Suites for quantizers of weights and for their parts."""

from .grids import Grid, bounds, grid_of
from .protocol import Codebook, MakeQuantizer, Packing, Quantizer
from .quantizer import QuantizerSuite

__all__ = [
    "Codebook",
    "Grid",
    "MakeQuantizer",
    "Packing",
    "Quantizer",
    "QuantizerSuite",
    "bounds",
    "grid_of",
]
