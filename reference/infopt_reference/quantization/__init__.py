"""Quantization of weights: schemes, number formats, packing, and a linear layer that uses them.

Start at `quantize` (quantized.py) and follow the imports; `quantize_model` applies it to a model.
"""

from .affine import AsymmetricFormat, SymmetricFormat
from .codebook import CODEBOOKS, FP4, NF4, CodeBook
from .error_metrics import max_error, mse, sqnr_db
from .fake_quantization import FakeQuantizedLinear, convert_qat, fake_quantize, prepare_qat
from .linear import QuantizedLinear
from .model import QuantizationReport, model_bytes, quantize_model
from .number_format import NumberFormat, number_format
from .packing import pack, packed_bytes, unpack
from .quantized import QuantizedTensor, quantize
from .scheme import PRESETS, Granularity, QuantizationScheme, preset

__all__ = [
    "CODEBOOKS",
    "FP4",
    "NF4",
    "PRESETS",
    "AsymmetricFormat",
    "CodeBook",
    "FakeQuantizedLinear",
    "Granularity",
    "NumberFormat",
    "QuantizationReport",
    "QuantizationScheme",
    "QuantizedLinear",
    "QuantizedTensor",
    "SymmetricFormat",
    "convert_qat",
    "fake_quantize",
    "max_error",
    "model_bytes",
    "mse",
    "number_format",
    "pack",
    "packed_bytes",
    "prepare_qat",
    "preset",
    "quantize",
    "quantize_model",
    "sqnr_db",
    "unpack",
]
