"""Suites for quantizers of weights and for their parts."""

from .activation_quantizer import ActivationQuantizerSuite
from .activations import (
    ActivationQuantizer,
    MakeActivationQuantizer,
    StaticActivationQuantizer,
)
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
    "ActivationQuantizer",
    "ActivationQuantizerSuite",
    "CalibratedQuantizer",
    "CalibratedQuantizerSuite",
    "Codebook",
    "CodebookSuite",
    "FakeQuantSuite",
    "FakeQuantizer",
    "Grid",
    "MakeActivationQuantizer",
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
    "StaticActivationQuantizer",
    "bounds",
    "grid_of",
]
