"""Default limits of quality by number format.

The three widths that the field agrees on (mean KL, top-1 agreement, perplexity ratio):

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

import math

from pytest_infopt import BudgetContext

_ANCHORS = {  # bits: mean KL in nats, share of changed top-1 tokens, perplexity ratio − 1
    8: (0.001, 0.01, 0.005),
    5: (0.01, 0.05, 0.015),
    3: (0.1, 0.15, 0.10),
}
_FLOAT16_QUALITY = (0.005, 0.05, 0.005)


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """Limits of ``kl_mean`` (nats), ``top1_agreement`` and ``perplexity_ratio``."""
    precision = context.precision
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
