"""Default limits of the memory gate: what was asked for has to be there."""

from __future__ import annotations

import math

from pytest_infopt import BudgetContext
from pytest_infopt.engines.base import Capability
from pytest_infopt.engines.format_options import sparsity_of
from pytest_infopt.engines.formats import FORMATS
from pytest_infopt.engines.registry import engine_named
from pytest_infopt.engines.weight_precision import dtype_bits

# Share of a model's weights that weight-only quantization leaves alone: embeddings, output head,
# norms. 13 % of an 8B Llama, 21 % of SmolLM2-135M, 28 % of Qwen2.5-0.5B; a third leaves room.
_UNQUANTIZED_SHARE = 1 / 3
_SCALE_BITS = 0.5  # a 16-bit scale per 32 weights, the finest usual granularity

# Share of the weights in matrices that an optimisation has to change. A library leaves out what its
# kernels cannot take, such as Mamba's dt_proj or odd widths: a few per cent. Every kind of matrix
# that makes up most of a model (experts, an MLP's three, attention's q and o) is more than a tenth.
_CHANGED_SHARE = 0.9
_GROUP = 32  # weights that share a scale, the finest usual granularity
_CONSTANT_BITS = 48  # of a group: a scale in 32 bit and a zero point in 16


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """The KV cache is as large as its formula says; weights are changed, and that small."""
    limits = {"kv_prediction_error": 0.0}
    if context.precision.packed:
        limits["weight_bytes"] = _weight_share(context)
    return limits | _of_changes(context)


def _weight_share(context: BudgetContext) -> float:
    """Largest share of the reference's weight bytes, rounded up to two digits.

    Quantized: the unquantized share stays, the rest shrinks to code and scale, against 16-bit
    floats (a 32-bit reference makes it easier): 8 bits 0.69, 4 bits 0.53, 3 bits 0.48. That is
    loose on purpose; it catches quantization that was silently not applied. Unquantized: the ratio
    of the dtypes, or, where the reference's own weights loaded in the candidate's dtype weigh more
    (some models keep single tensors in float32), those.
    """
    if context.precision.lossless:
        return dtype_bits(context.candidate) / dtype_bits(context.reference)
    quantized = (context.precision.bits + _SCALE_BITS) / 16
    return math.ceil(100 * (_UNQUANTIZED_SHARE + (1 - _UNQUANTIZED_SHARE) * quantized)) / 100


def _weights_are_seen(context: BudgetContext) -> bool:
    source = context.candidate
    return not context.served and Capability.MODULES in engine_named(source.engine).offers(source)


def _of_changes(context: BudgetContext) -> dict[str, float]:
    """What quantization or pruning by one of the named formats has to have done."""
    form = FORMATS.get(context.candidate.quantization)
    if form is None or context.precision.lossless or not _weights_are_seen(context):
        return {}
    options = context.candidate.options
    limits = {"changed_share": _CHANGED_SHARE}
    if form.pruned:
        limits["sparsity"] = _CHANGED_SHARE * sparsity_of(options.get("sparsity", 0.5)).share
    elif form.packed and form.bits is not None:
        group = options.get("group_size", _GROUP)
        constants = _CONSTANT_BITS / min(group, _GROUP)
        left = (1 - _CHANGED_SHARE) * dtype_bits(context.candidate)
        limits["bits_per_weight"] = context.precision.bits + constants + left
    return limits
