"""Number formats of weights: what a quantization name means, and which format a model comes in.

Budgets by default depend on nothing but this. Imports neither torch nor a quantization library.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..release import ModelSource

_EMBEDDED = "embedded:"  # models that this package converts, to float32
DTYPES = {"float32": 32, "float16": 16, "bfloat16": 16}
DTYPE_ALIASES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Format:
    """A quantization by its loader name.

    ``weight_bits`` is the size of one code, without scales; None where the checkpoint decides.
    ``lossless`` says that outputs are meant to be the reference's up to rounding. ``packed`` says
    that the loaded model keeps its weights in that size. ``pruned`` says that weights are zeros,
    kept like any others. ``module`` is the package it needs, which ``extra`` installs.
    """

    name: str
    weight_bits: int | None
    summary: str
    lossless: bool = False
    packed: bool = True
    module: str | None = None
    extra: str | None = None
    pruned: bool = False

    def missing(self) -> str | None:
        """Why it cannot be loaded here, or None."""
        if self.module is None or _is_installed(self.module):
            return None
        remedy = f"pip install 'pytest-infopt[{self.extra or self.module}]'"
        return f"{self.name} needs the package {self.module}: {remedy}"


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False


FORMATS: dict[str, Format] = {
    form.name: form
    for form in [
        Format("none", None, "the checkpoint as it is, in the given dtype", lossless=True),
        Format("int8", 8, "absmax integers, round to nearest"),
        Format("int4", 4, "group-wise integers, round to nearest"),
        Format("int3", 3, "group-wise integers, round to nearest"),
        Format("nf4", 4, "4-bit NormalFloat, block-wise absmax"),
        Format("nf4-double", 4, "4-bit NormalFloat, absmax quantized in turn"),
        Format("fp4", 4, "4-bit floats, block-wise absmax"),
        Format("fp8", 8, "8-bit floats E4M3FN, absmax of a channel"),
        Format("fp8-e5m2", 8, "8-bit floats E5M2, absmax of a channel"),
        Format("gptq", 4, "group-wise integers, errors made up for by later columns (GPTQ)"),
        Format("awq", 4, "group-wise integers, channels scaled by activations (AWQ)"),
        Format("smoothquant", 8, "integer weights and activations, outliers shared (SmoothQuant)"),
        Format("llm-int8", 8, "integer weights and activations but for outliers (LLM.int8())"),
        Format("magnitude", None, "smallest weights set to 0", packed=False, pruned=True),
        Format("wanda", None, "weights of least effect set to 0", packed=False, pruned=True),
        Format("bitsandbytes-int8", 8, "LLM.int8() of bitsandbytes", module="bitsandbytes"),
        Format("bitsandbytes-nf4", 4, "NF4 of bitsandbytes", module="bitsandbytes"),
        Format("bitsandbytes-fp4", 4, "FP4 of bitsandbytes", module="bitsandbytes"),
        Format("torchao-int8", 8, "int8 weights of torchao", module="torchao"),
        Format("torchao-int8-dynamic", 8, "int8 weights and activations of torchao",
               module="torchao"),
        Format("torchao-int4", 4, "int4 weights of torchao, a byte each", packed=False,
               module="torchao"),
        Format("torchao-float8", 8, "float8 weights of torchao", module="torchao"),
        Format("quanto-int8", 8, "int8 weights of optimum-quanto", module="optimum.quanto",
               extra="quanto"),
        Format("quanto-int4", 4, "int4 weights of optimum-quanto", module="optimum.quanto",
               extra="quanto"),
        Format("gptqmodel", 4, "GPTQ of gptqmodel", module="gptqmodel", extra="gptq"),
        # transformers de-quantizes GGUF weights while loading: the memory is that of the dtype.
        Format("gguf", None, "a GGUF file, de-quantized into the dtype", packed=False),
    ]
}  # fmt: skip


OWN_LOADER = r"[\w.]+:\w+"  # module:function


def format_of(quantization: str) -> Format:
    """The format of that name; a loader of one's own is a format nothing is known of."""
    own = Format(quantization, None, "a loader of your own", packed=False)
    return FORMATS.get(quantization, own)


@dataclass(frozen=True)
class Precision:
    """The precision a candidate's weights come in; ``summary`` names it in messages."""

    bits: int
    lossless: bool
    packed: bool
    summary: str


def precision_of(candidate: ModelSource, reference: ModelSource) -> Precision:
    """The precision of a candidate against its reference, without loading either.

    Read off, in this order: the quantization's name, the GGUF file's name, config.json of a local
    checkpoint, the dtype. The reference's own checkpoint, however coarse, loses nothing against
    itself. Quantization of unknown width counts as 8-bit, whose budgets are the strictest. Pruning
    half of the weights costs about what 3 bits do, and is held to those limits.
    """
    form = format_of(candidate.quantization)
    if form.weight_bits is not None:
        return _quantized(_bits_option(candidate) or form.weight_bits, form.packed)
    if form.pruned:
        return Precision(3, lossless=False, packed=False, summary="pruned weights, as for 3 bits")
    if form.name not in FORMATS:
        return _quantized(8, packed=False, known=False)
    if not _same_checkpoint(candidate, reference):
        if candidate.gguf_file is not None:
            return _of_gguf(candidate)
        stored = _stored_quantization(candidate.model)
        if stored is not None:
            return stored
    return _unquantized(min(dtype_bits(candidate), dtype_bits(reference)))


def dtype_bits(source: ModelSource) -> int:
    """Bits of the source's dtype; where only the checkpoint's config knows, its; else 16."""
    if source.dtype in DTYPES:
        return DTYPES[source.dtype]
    if source.model.startswith(_EMBEDDED):
        return 32
    config = _checkpoint_config(source.model)
    return DTYPES.get(str(config.get("dtype", config.get("torch_dtype"))), 16)


def _bits_option(source: ModelSource) -> int | None:
    """The width that its options set; one that the loader will refuse changes nothing here."""
    bits = source.options.get("bits")
    return bits if type(bits) is int and 2 <= bits <= 8 else None


def _same_checkpoint(candidate: ModelSource, reference: ModelSource) -> bool:
    identity = ("model", "gguf_file", "revision")
    return all(getattr(candidate, key) == getattr(reference, key) for key in identity)


def _quantized(bits: int, packed: bool, known: bool = True) -> Precision:
    summary = f"{bits}-bit weights" if known else "weights of unknown width, taken for 8-bit"
    return Precision(bits, lossless=False, packed=packed, summary=summary)


def _unquantized(bits: int) -> Precision:
    return Precision(bits, lossless=True, packed=True, summary=f"unquantized {bits}-bit floats")


def _of_gguf(source: ModelSource) -> Precision:
    # Names follow the llama.cpp convention: model-Q4_K_M.gguf, model-IQ3_XS.gguf, model-f16.gguf.
    name = (source.gguf_file or "").upper()
    if re.search(r"(?<![A-Z])(BF16|F16|FP16|F32|FP32)(?![0-9])", name):
        return _unquantized(32 if "32" in name else 16)
    code = re.search(r"(?<![A-Z0-9])(?:I?Q|TQ)([1-8])(?:_|\.|-)", name)
    return _quantized(int(code[1]), packed=False) if code else _quantized(8, False, known=False)


def _checkpoint_config(model: str) -> dict[str, Any]:
    path = Path(model) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a hub id, a missing or a broken file: the loader will say so
        return {}
    return config if isinstance(config, dict) else {}


def _stored_quantization(model: str) -> Precision | None:
    stored = _checkpoint_config(model).get("quantization_config")
    if not isinstance(stored, dict):
        return None
    bits = _stored_bits(stored)
    return _quantized(bits, packed=True) if bits else _quantized(8, packed=True, known=False)


def _stored_bits(stored: dict[str, Any]) -> int | None:
    """Width in a checkpoint's ``quantization_config`` (gptq and awq: ``bits``; bitsandbytes:
    ``load_in_…``; fp8: the method's name; compressed-tensors: ``num_bits`` of the weights)."""
    if isinstance(stored.get("bits"), int):
        return int(stored["bits"])
    if stored.get("load_in_8bit") or "fp8" in str(stored.get("quant_method")):
        return 8
    if stored.get("load_in_4bit"):
        return 4
    widths = re.findall(r'"weights": \{[^{}]*"num_bits": (\d+)', json.dumps(stored))
    return min(map(int, widths)) if widths else None
