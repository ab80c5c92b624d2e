"""How far a quantized tensor is from the original: MSE, largest error, SQNR.

All in float64, whatever the tensors' dtypes.
"""

from __future__ import annotations

import math

from torch import Tensor

from .checks import require_finite


def mse(reference: Tensor, candidate: Tensor) -> float:
    """Mean of (reference − candidate)².

    Raises:
        ValueError: shapes differ, a tensor is empty, or a value is not finite (a NaN would pass
            every comparison with a limit).
    """
    return float(_error(reference, candidate).square().mean())


def max_error(reference: Tensor, candidate: Tensor) -> float:
    """Largest |reference − candidate|; raises as `mse` does."""
    return float(_error(reference, candidate).abs().max())


def sqnr_db(reference: Tensor, candidate: Tensor) -> float:
    """Signal-to-quantization-noise ratio, 10·log10(Σ reference² / Σ error²), in dB.

    Infinite without any error, −infinite where the reference is all 0 and the candidate is not;
    raises as `mse` does.
    """
    noise = float(_error(reference, candidate).square().sum())
    signal = float(reference.double().square().sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _error(reference: Tensor, candidate: Tensor) -> Tensor:
    if reference.shape != candidate.shape or not reference.numel():
        shapes = f"{tuple(reference.shape)} and {tuple(candidate.shape)}"
        raise ValueError(f"shapes are {shapes}; give two tensors of one shape that is not empty")
    require_finite(reference, "reference")
    require_finite(candidate, "candidate")
    return reference.double() - candidate.double()
