"""Which precision a model's weights come in, found out without loading it.

Budgets by default depend on nothing but this. Imports neither torch nor a quantization library.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from ..release import ModelSource
from .base import StoredWeights
from .files.checkpoints import checkpoint_config
from .files.embedded import PREFIX
from .files.size import gguf_width
from .format_options import is_width
from .formats import DTYPES, INTEGER_ACTIVATIONS, format_of
from .kv_cache_formats import kv_cache_format
from .registry import engine_named

__all__ = ["Precision", "dtype_bits", "observed_precision", "precision_of"]


@dataclass(frozen=True)
class Precision:
    """The precision a candidate's weights come in; ``summary`` names it in messages. ``known`` is
    False where it shows only once the model is loaded; ``loses_as`` is the width of integer weights
    that lose as much, where that is not ``bits``."""

    bits: int
    lossless: bool
    packed: bool
    summary: str
    known: bool = True
    loses_as: int | None = None


def observed_precision(
    planned: Precision, candidate: StoredWeights, reference: StoredWeights
) -> Precision:
    """The precision of a loaded candidate: as planned where that was known, else as stored.

    The weights that are not floats have to lie in the codes, so those have

        8 · coded bytes / (weights of the reference − floats of the candidate)

    bits each, scales left aside. Weights that were rounded and kept as floats look unquantized.
    """
    if planned.known:
        return planned
    if not candidate.coded_bytes:
        bits = min(candidate.float_bits, reference.float_bits)
        return replace(_unquantized(bits), summary=f"unquantized {bits}-bit floats, as loaded")
    coded = max(1, reference.floats - candidate.floats)
    bits = min(8, max(2, round(8 * candidate.coded_bytes / coded)))
    found = replace(_quantized(bits, packed=True), summary=f"{bits}-bit weights, as loaded")
    if not candidate.integer_activations:
        return found
    summary = f"{bits}-bit weights with 8-bit activations, as loaded"
    return replace(found, summary=summary, loses_as=min(bits, INTEGER_ACTIVATIONS))


def precision_of(candidate: ModelSource, reference: ModelSource) -> Precision:
    """The precision of a candidate against its reference, without loading either: that of its
    weights, or of its KV cache where that loses more."""
    weights = _precision_of_weights(candidate, reference)
    if candidate.kv_cache is None:
        return weights
    form = kv_cache_format(candidate.kv_cache)
    cache = replace(_quantized(form.bits or 8, packed=False), loses_as=form.loses_as)
    if not weights.lossless and _width(weights) <= _width(cache):
        return weights
    return replace(cache, summary=f"a KV cache in {form.name}")


def _width(precision: Precision) -> int:
    return precision.loses_as or precision.bits


def _precision_of_weights(candidate: ModelSource, reference: ModelSource) -> Precision:
    """That of the weights.

    Read off, in this order: the quantization's name, the GGUF file's name, config.json of a local
    checkpoint, the dtype. The reference's own checkpoint, however coarse, loses nothing against
    itself, but for what an engine with integer activations makes of it. Quantization of unknown
    width counts as 8-bit, whose budgets are the strictest, until the model is loaded
    (`observed_precision`). Pruning half of the weights costs about what 3 bits do, and is held to
    those limits.
    """
    form = format_of(candidate.quantization)
    if form.bits is not None:
        bits = _bits_option(candidate)
        return replace(_quantized(bits or form.bits, form.packed), loses_as=bits or form.loses_as)
    if form.pruned:
        return Precision(3, lossless=False, packed=False, summary="pruned weights, as for 3 bits")
    if form.options is None:
        bits = _bits_option(candidate)
        return _quantized(bits, False) if bits else _of_unknown_width(packed=False, known=False)
    unquantized = _unquantized(min(dtype_bits(candidate), dtype_bits(reference)))
    if engine_named(candidate.engine).width_when_loaded:
        return replace(unquantized, known=False)
    if _same_checkpoint(candidate, reference):
        return _rounded_on_the_way(candidate) or unquantized
    if candidate.gguf_file is not None:
        return _of_gguf(candidate)
    if not candidate.model.startswith(PREFIX) and not checkpoint_config(candidate.model):
        return replace(unquantized, known=False)  # of a hub, say: its files are not here yet
    return _stored_quantization(candidate.model) or unquantized


def dtype_bits(source: ModelSource) -> int:
    """Bits of the source's dtype; where only the checkpoint's config knows, its; else 16."""
    if source.dtype in DTYPES:
        return DTYPES[source.dtype]
    if source.model.startswith(PREFIX):
        return 32
    config = checkpoint_config(source.model)
    return DTYPES.get(str(config.get("dtype", config.get("torch_dtype"))), 16)


def _bits_option(source: ModelSource) -> int | None:
    """The width that its options set; one that the loader will refuse changes nothing here."""
    bits = source.options.get("bits")
    return bits if is_width(bits) else None


def _same_checkpoint(candidate: ModelSource, reference: ModelSource) -> bool:
    identity = ("model", "gguf_file", "revision")
    return all(getattr(candidate, key) == getattr(reference, key) for key in identity)


def _rounded_on_the_way(source: ModelSource) -> Precision | None:
    """That of an engine that rounds activations, whose blocks lose what 8-bit weights do; None for
    others, and for files of floats."""
    if not engine_named(source.engine).integer_activations:
        return None
    if (gguf_width(source.gguf_file or source.model) or 0) >= 16:
        return None
    summary = "the reference's weights with 8-bit activations"
    return Precision(8, lossless=False, packed=True, summary=summary)


def _quantized(bits: int, packed: bool) -> Precision:
    return Precision(bits, lossless=False, packed=packed, summary=f"{bits}-bit weights")


def _of_unknown_width(packed: bool, known: bool) -> Precision:
    """``known`` says that the loaded weights will not tell the width either."""
    summary = "weights of unknown width, taken for 8-bit"
    return Precision(8, lossless=False, packed=packed, summary=summary, known=known)


def _unquantized(bits: int) -> Precision:
    return Precision(bits, lossless=True, packed=True, summary=f"unquantized {bits}-bit floats")


def _of_gguf(source: ModelSource) -> Precision:
    width = gguf_width(source.gguf_file or "")
    packed = engine_named(source.engine).integer_activations  # else de-quantized while loading
    if width is None:
        return _of_unknown_width(packed=packed, known=True)
    return _unquantized(width) if width >= 16 else _quantized(width, packed=packed)


def _stored_quantization(model: str) -> Precision | None:
    stored = checkpoint_config(model).get("quantization_config")
    if not isinstance(stored, dict):
        return None
    bits = _stored_bits(stored)
    return _quantized(bits, packed=True) if bits else _of_unknown_width(packed=True, known=False)


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
