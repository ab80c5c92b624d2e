"""Default budgets by number format: what a candidate is held to where nobody wrote a limit.

Quality, at the three widths that the field agrees on (mean KL, top-1 agreement, perplexity ratio):

    8 bits  .001  99 %  1.005      5 bits  .01  95 %  1.015      3 bits  .1  85 %  1.10

Between and beyond them the logarithms of KL, of 1 − top-1 and of ratio − 1 are linear in the
number of bits: RMS rounding error halves with each bit, so that KL, quadratic in it for small
errors, falls geometrically. 4 bits (int4, NF4 and FP4 alike: the budget is on the width, the better
code book has the easier life) thus get the geometric means of the 5- and 3-bit limits: .032, 91 %,
1.039.

Unquantized 16-bit floats: bfloat16 alone costs a 135M-parameter model KL .0016, 3.3 % of its top-1
tokens and .04 % of perplexity (measured; larger models lose less), so the limits are about three
times that KL, 95 % and 1.005. Two float32 models are held to the 8-bit limits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..engines.weight_precision import Precision, dtype_bits, precision_of
from ..metrics.budget import Budget
from ..metrics.metric import METRICS, Unit
from ..release import ModelSource

_ANCHORS = {  # bits: mean KL in nats, share of changed top-1 tokens, perplexity ratio − 1
    8: (0.001, 0.01, 0.005),
    5: (0.01, 0.05, 0.015),
    3: (0.1, 0.15, 0.10),
}
_FLOAT16_QUALITY = (0.005, 0.05, 0.005)

# An error may be twice what a plain implementation of the same dtype makes: the form of
# FlashAttention's tests (Dao-AILab/flash-attention, tests/test_flash_attn.py).
_ERROR_RATIO = 2.0

# Share of a model's weights that weight-only quantization leaves alone: embeddings, output head,
# norms. 13 % of an 8B Llama, 21 % of SmolLM2-135M, 28 % of Qwen2.5-0.5B; a third leaves room.
_UNQUANTIZED_SHARE = 1 / 3
_SCALE_BITS = 0.5  # a 16-bit scale per 32 weights, the finest usual granularity


def default_budgets(candidate: ModelSource, reference: ModelSource) -> dict[str, Budget]:
    """The candidate's budgets by metric name; their origin names the number format."""
    precision = precision_of(candidate, reference)
    limits = {
        **_equivalence(precision),
        **quality_limits(precision),
        **_caches(),
        **_latency(candidate),
        **_memory(candidate, reference, precision),
    }
    origin = f"default for {precision.summary}"
    return {
        name: Budget(METRICS[name], limit, METRICS[name].unit is Unit.BYTES and limit != 0, origin)
        for name, limit in limits.items()
    }


def quality_limits(precision: Precision) -> dict[str, float]:
    """Limits of ``kl_mean`` (nats), ``top1_agreement`` and ``perplexity_ratio``."""
    if precision.lossless and precision.bits < 32:
        kl, changed, excess = _FLOAT16_QUALITY
    else:
        kl, changed, excess = (_interpolate(i, precision.bits) for i in range(3))
    return {
        "kl_mean": kl,
        "top1_agreement": round(1 - changed, 6),
        "perplexity_ratio": round(1 + excess, 6),
    }


def _interpolate(column: int, bits: int) -> float:
    """Log-linear through the two nearest anchors, to two significant digits; above 8 bits as 8."""
    bits = min(max(bits, 2), 8)
    low, high = (5, 8) if bits >= 5 else (3, 5)
    start, end = math.log(_ANCHORS[low][column]), math.log(_ANCHORS[high][column])
    return float(f"{math.exp(start + (end - start) * (bits - low) / (high - low)):.2g}")


def _equivalence(precision: Precision) -> dict[str, float]:
    """A model has to agree with itself in any format; with the reference only if meant lossless."""
    itself = dict.fromkeys(
        ("causality_error_ratio", "cached_error_ratio", "batch_error_ratio"), _ERROR_RATIO
    )
    if not precision.lossless:
        return itself
    return {"logit_error_ratio": _ERROR_RATIO, "greedy_mismatches": 0.0, **itself}


def _caches() -> dict[str, float]:
    """What a cache may change in any format: nothing beyond rounding; and it keeps what it can."""
    ratios = dict.fromkeys(("kv_error_ratio", "prefix_error_ratio"), _ERROR_RATIO)
    none = dict.fromkeys(("kv_greedy_mismatches", "kv_size_error", "prefix_greedy_mismatches"), 0.0)
    return {**ratios, **none, "prefix_saved_share": 1.0}


def long_context_budgets(budgets: Mapping[str, Budget]) -> dict[str, Budget]:
    """The sweep's limits where nobody wrote any: of a single text, twice what is granted the mean
    over many; through the cache, as much as on a short prompt."""
    limits = {"long_context_error_ratio": _ERROR_RATIO}
    if "kl_mean" in budgets:
        limits["long_context_kl"] = 2 * budgets["kl_mean"].limit
    return _named(limits, "default for the sweep")


def batching_budgets() -> dict[str, Budget]:
    """Batching may change no result; what it gains in time is reported, and limited on request."""
    limits = {"batch_invariance_error_ratio": _ERROR_RATIO, "batch_invariance_mismatches": 0.0}
    return _named(limits, "default for batching")


def semantic_cache_budgets() -> dict[str, Budget]:
    """One hit in a hundred may be wrong."""
    return _named({"semantic_hit_precision": 0.99}, "default for semantic caches")


def _named(limits: Mapping[str, float], origin: str) -> dict[str, Budget]:
    return {name: Budget(METRICS[name], limit, origin=origin) for name, limit in limits.items()}


def _latency(candidate: ModelSource) -> dict[str, float]:
    """Not slower than the reference, but for noise: pairs on shared CPUs need 10 % of margin to be
    decided within seconds, on a GPU 5 %. Without a named device it may be a CPU."""
    margin = 1.05 if candidate.device.startswith("cuda") else 1.10
    return {"ttft_ratio": margin, "tpot_ratio": margin}


def _memory(
    candidate: ModelSource, reference: ModelSource, precision: Precision
) -> dict[str, float]:
    limits = {"kv_prediction_error": 0.0}
    if precision.packed:
        limits["weight_bytes"] = _weight_share(candidate, reference, precision)
    return limits


def _weight_share(candidate: ModelSource, reference: ModelSource, precision: Precision) -> float:
    """Largest share of the reference's weight bytes, rounded up to two digits.

    Quantized: the unquantized share stays, the rest shrinks to code and scale, against 16-bit
    floats (a 32-bit reference makes it easier): 8 bits 0.69, 4 bits 0.53, 3 bits 0.48. That is
    loose on purpose; it catches quantization that was silently not applied. Unquantized: the ratio
    of the dtypes.
    """
    if precision.lossless:
        return dtype_bits(candidate) / dtype_bits(reference)
    quantized = (precision.bits + _SCALE_BITS) / 16
    return math.ceil(100 * (_UNQUANTIZED_SHARE + (1 - _UNQUANTIZED_SHARE) * quantized)) / 100
