"""Suites for quantizers of weights and for their parts."""

from .calibrated import CalibratedQuantizerSuite
from .calibration import CalibratedQuantizer, MakeCalibratedQuantizer
from .codebook import CodebookSuite
from .fake_quantization import FakeQuantizer, FakeQuantSuite, MakeFakeQuantizer
from .grids import Grid, bounds, grid_of
from .model_protocol import MakeModelQuantizer, ModelQuantizer
from .model_quantizer import ModelQuantizerSuite
from .packing import PackingSuite
from .protocol import Codebook, MakeQuantizer, Packing, Quantizer
from .quantized_linear import MakeQuantizedLinear, QuantizedLinear, QuantizedLinearSuite
from .quantizer import QuantizerSuite
from .smoothing import MakeSmoother, Smoother, SmoothingSuite

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
    "MakeModelQuantizer",
    "MakeQuantizedLinear",
    "MakeQuantizer",
    "MakeSmoother",
    "ModelQuantizer",
    "ModelQuantizerSuite",
    "Packing",
    "PackingSuite",
    "QuantizedLinear",
    "QuantizedLinearSuite",
    "Quantizer",
    "QuantizerSuite",
    "Smoother",
    "SmoothingSuite",
    "bounds",
    "grid_of",
]
