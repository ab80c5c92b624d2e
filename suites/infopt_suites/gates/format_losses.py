"""What a sound implementation of a number format loses at most, by bits and size of the model.

The limits lie from 1.4 (3 bits) to 3.5 times (8 bits) above the KL that a sound implementation of
the format loses: rounding to nearest, in groups of 32 to 128 weights or a scale a channel. Small
models have little redundancy and lose much more than large ones, so there are two tables.

Below a billion parameters (measured here, embedded corpus, 25 documents, mean KL in nats, share of
changed top-1 tokens, perplexity ratio):

    format      SmolLM2-135M-Instruct      Gemma 3 270M
    bfloat16    .0014   3.3 %   1.002      .0009   2.3 %   1.002
    int8        .0034   3.8 %   1.003      .0035   3.3 %   1.002
    nf4         .30    30 %     1.35       .25    26 %     1.29
    int4        .36    32 %     1.35       .38    33 %     1.48
    int3       1.25    59 %     2.9        2.2    69 %     7.9
From a billion parameters on (Llama 3 8B against 16 bits; ggml-org/llama.cpp,
tools/perplexity/README.md, revision f364eb6f; top-1 where it is given there):

    Q8_0        .0014   2.3 %   1.0004
    Q4_K_M      .031    8.1 %   1.028
    Q4_0        .072            1.075
    Q3_K_S      .23             1.26
    Q2_K        .45    29 %     1.56

Two float32 models are held to less than what 16 bits may lose: a copy loses nothing.

Between and beyond the anchors the logarithms are linear in the number of bits: RMS rounding error
halves with each bit, so that KL, quadratic in it for small errors, falls geometrically. 8-bit
floats, and formats with integer activations, are held to the width that loses as much. 4-bit
formats share a limit, so the better code book has the easier life. A model of unknown size is held
to the limits of small ones until it is loaded.
"""

import math

from pytest_infopt import BudgetContext

LARGE = 1_000_000_000  # parameters

Anchors = dict[int, tuple[float, float, float]]
# Bits: mean KL in nats, share of changed top-1 tokens, perplexity ratio − 1.
SMALL_MODELS: Anchors = {8: (0.012, 0.08, 0.015), 4: (1.0, 0.6, 0.9), 3: (3.0, 0.8, 9.0)}
LARGE_MODELS: Anchors = {8: (0.004, 0.04, 0.01), 4: (0.2, 0.2, 0.1), 3: (0.5, 0.35, 0.3)}
FLOAT16 = {False: (0.005, 0.07, 0.01), True: (0.005, 0.05, 0.005)}  # by whether it is large
FLOAT32 = (0.001, 0.01, 0.005)


def usual_losses(context: BudgetContext) -> tuple[float, float, float]:
    """Mean KL in nats, share of changed top-1 tokens, and perplexity ratio − 1, at most."""
    precision, large = context.precision, (context.parameters or 0) >= LARGE
    if precision.lossless:
        return FLOAT32 if precision.bits >= 32 else FLOAT16[large]
    anchors = LARGE_MODELS if large else SMALL_MODELS
    bits = precision.loses_as or precision.bits
    kl, changed, excess = (_interpolate(anchors, column, bits) for column in range(3))
    return kl, min(changed, 0.95), excess


def _interpolate(anchors: Anchors, column: int, bits: int) -> float:
    """Log-linear through the two nearest anchors, to two significant digits; above 8 bits as 8."""
    bits = min(max(bits, 2), 8)
    low, high = (4, 8) if bits >= 4 else (3, 4)
    start, end = math.log(anchors[low][column]), math.log(anchors[high][column])
    return float(f"{math.exp(start + (end - start) * (bits - low) / (high - low)):.2g}")
