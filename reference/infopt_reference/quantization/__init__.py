"""Quantization of weights: schemes, number formats, packing, and a linear layer that uses them.

Start at `quantize` (quantized.py) and follow the imports; `quantize_model` applies it to a model.
"""

from .activations import StaticActivationQuantizer, round_activations
from .affine import AsymmetricFormat, SymmetricFormat
from .awq import AWQScales, awq_scales, clip_weights, search_awq_scales
from .calibration import ActivationStatistics, HessianStatistics, output_mse
from .codebook import CODEBOOKS, FP4, NF4, CodeBook
from .error_metrics import max_error, mse, sqnr_db
from .fake_quantization import FakeQuantizedLinear, convert_qat, fake_quantize, prepare_qat
from .float8 import E4M3FN, E5M2, Float8Format, decode_float8, encode_float8
from .gptq import gptq
from .gptq_format import read_gptq_layer
from .linear import QuantizedLinear
from .llm_int8 import LLMInt8Linear, llm_int8_matmul
from .methods import METHODS, quantization_method
from .model import QuantizationReport, model_bytes, quantize_model
from .number_format import NumberFormat
from .packing import pack, packed_bytes, unpack
from .precision import FORMATS, FormatInfo, format_info, ulp
from .qat import distillation_kl, train_qat
from .quantized import QuantizedTensor, quantize, quantize_activations
from .scheme import (
    NAMED_FORMATS,
    PRESETS,
    Granularity,
    QuantizationScheme,
    number_format,
    preset,
)
from .smoothing import SmoothingGroup, smooth, smoothing_groups
from .smoothquant import smoothquant_scales

__all__ = [
    "CODEBOOKS",
    "E4M3FN",
    "E5M2",
    "FORMATS",
    "FP4",
    "METHODS",
    "NAMED_FORMATS",
    "NF4",
    "PRESETS",
    "AWQScales",
    "ActivationStatistics",
    "AsymmetricFormat",
    "CodeBook",
    "FakeQuantizedLinear",
    "Float8Format",
    "FormatInfo",
    "Granularity",
    "HessianStatistics",
    "LLMInt8Linear",
    "NumberFormat",
    "QuantizationReport",
    "QuantizationScheme",
    "QuantizedLinear",
    "QuantizedTensor",
    "SmoothingGroup",
    "StaticActivationQuantizer",
    "SymmetricFormat",
    "awq_scales",
    "clip_weights",
    "convert_qat",
    "decode_float8",
    "distillation_kl",
    "encode_float8",
    "fake_quantize",
    "format_info",
    "gptq",
    "llm_int8_matmul",
    "max_error",
    "model_bytes",
    "mse",
    "number_format",
    "output_mse",
    "pack",
    "packed_bytes",
    "prepare_qat",
    "preset",
    "quantization_method",
    "quantize",
    "quantize_activations",
    "quantize_model",
    "read_gptq_layer",
    "round_activations",
    "search_awq_scales",
    "smooth",
    "smoothing_groups",
    "smoothquant_scales",
    "sqnr_db",
    "train_qat",
    "ulp",
    "unpack",
]
