"""Suites for quantizers of weights and for their parts."""

from .codebook import CodebookSuite
from .grids import Grid, bounds, grid_of
from .packing import PackingSuite
from .protocol import Codebook, MakeQuantizer, Packing, Quantizer
from .quantizer import QuantizerSuite

__all__ = [
    "Codebook",
    "CodebookSuite",
    "Grid",
    "MakeQuantizer",
    "Packing",
    "PackingSuite",
    "Quantizer",
    "QuantizerSuite",
    "bounds",
    "grid_of",
]
