"""SmoothQuant: moving the difficulty of large activations into the weights.

    s_j = max|x_j|^α / max_i|W_ij|^(1 − α),   over the rows i of all layers that read x
Activations x/s have smaller outliers, weights W·s larger columns; α = 1/2 shares evenly. Both are
then quantized to 8 bits: weights per channel, activations per token as they come, which is
`LLMInt8Linear` without outlier features (threshold = inf). `smoothing.smooth` applies the scales.

Contract. Both maxima are taken as `MINIMUM` or more, so that scales are finite and positive for a
feature that is always 0, and for one that no weight reads. Deterministic; float64.

Source: Xiao et al. 2022, "SmoothQuant", arXiv:2211.10438, section 4, equation 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import require_finite

ALPHA = 0.5
MINIMUM = 1e-5


@torch.no_grad()
def smoothquant_scales(
    weights: Sequence[Tensor], max_abs: Tensor, *, alpha: float = ALPHA
) -> Tensor:
    """Scales, float64 [K], for the weights [M_i, K] of all layers that read one activation.

    Args:
        weights: of all consumers; leaving one out makes its columns the ones that overflow.
        max_abs: largest |x| of each feature, [K].
        alpha: how much of the difficulty moves to the weights, 0…1.

    Raises:
        ValueError: alpha is out of range, a shape does not fit, or a value is not finite.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; give a number from 0 (weights) to 1 (activations)")
    require_finite(max_abs, "max_abs")
    largest = torch.zeros_like(max_abs, dtype=torch.float64)
    for weight in weights:
        if weight.ndim != 2 or weight.shape[1:] != max_abs.shape:
            raise ValueError(
                f"a weight has shape {tuple(weight.shape)}; {tuple(max_abs.shape)} features need "
                f"[..., {max_abs.shape[-1] if max_abs.ndim else 1}]"
            )
        require_finite(weight, "weight")
        largest = torch.maximum(largest, weight.double().abs().amax(dim=0))
    activations = max_abs.double().clamp(min=MINIMUM)
    return activations**alpha / largest.clamp(min=MINIMUM) ** (1 - alpha)
