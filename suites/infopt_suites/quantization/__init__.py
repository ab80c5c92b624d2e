"""Suites for quantizers of weights and for their parts."""

from .calibrated import (
    CalibratedQuantizer,
    CalibratedQuantizerSuite,
    MakeCalibratedQuantizer,
)
from .codebook import CodebookSuite
from .fake_quantization import FakeQuantizer, FakeQuantSuite, MakeFakeQuantizer
from .grids import Grid, bounds, grid_of
from .packing import PackingSuite
from .protocol import Codebook, MakeQuantizer, Packing, Quantizer
from .quantizer import QuantizerSuite

__all__ = [
    "CalibratedQuantizer",
    "CalibratedQuantizerSuite",
    "Codebook",
    "CodebookSuite",
    "FakeQuantSuite",
    "FakeQuantizer",
    "Grid",
    "MakeCalibratedQuantizer",
    "MakeFakeQuantizer",
    "MakeQuantizer",
    "Packing",
    "PackingSuite",
    "Quantizer",
    "QuantizerSuite",
    "bounds",
    "grid_of",
]
