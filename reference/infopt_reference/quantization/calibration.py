"""Statistics of a layer's inputs, gathered batch by batch: what GPTQ, AWQ and SmoothQuant need.

Second moments:  H = (2/N) Σ x·xᵀ over N tokens, the Hessian of the mean squared output error;
                 a weight error e changes the outputs by e·x, and mean (e·x)² = e·H·eᵀ / 2.
Magnitudes:      mean |x_j| and max |x_j| of each input feature j.

Contract. The unit is the token: the result does not depend on how tokens are split into batches or
ordered, but for the rounding of sums. Positions that the mask excludes are not looked at, so
padding may hold anything, NaN included. NaN or infinity elsewhere raises. Memory is that of the
statistics alone. Products are made in float32 (float64 inputs: float64), sums in float64.

Left out: weighting of tokens, and statistics per token position.

Source: Frantar et al. 2022, "GPTQ", section 3.1 (H); Lin et al. 2023, "AWQ", section 3.2 (mean);
Xiao et al. 2022, "SmoothQuant", section 4 (max).
Legend: N tokens, K input features, M output features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import require_finite


class HessianStatistics:
    """H = (2/N) Σ x·xᵀ of all tokens observed so far."""

    def __init__(self, features: int, device: torch.device | str | None = None) -> None:
        self.tokens = 0
        self._sum = torch.zeros(features, features, dtype=torch.float64, device=device)

    @torch.no_grad()
    def observe(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            inputs: [..., K], what the layer is given.
            mask: [...], true or nonzero where a token is, false or 0 at padding; None keeps all.

        Raises:
            ValueError: a shape does not fit, or a kept value is not finite.
        """
        tokens = kept_tokens(inputs, mask, self._sum.shape[0])
        self._sum += tokens.T @ tokens
        self.tokens += tokens.shape[0]

    @property
    def hessian(self) -> Tensor:
        """H, float64 [K, K]. Raises ValueError before any token was observed."""
        require_tokens(self.tokens)
        return self._sum * (2 / self.tokens)


class ActivationStatistics:
    """Mean and largest |x| of each input feature, over all tokens observed so far."""

    def __init__(self, features: int, device: torch.device | str | None = None) -> None:
        self.tokens = 0
        self._sum = torch.zeros(features, dtype=torch.float64, device=device)
        self._max = torch.zeros(features, dtype=torch.float64, device=device)

    @torch.no_grad()
    def observe(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        """Adds a batch; arguments and errors as of `HessianStatistics.observe`."""
        tokens = kept_tokens(inputs, mask, self._sum.shape[0]).abs()
        if tokens.shape[0]:
            self._sum += tokens.sum(dim=0, dtype=torch.float64)
            self._max = torch.maximum(self._max, tokens.amax(dim=0).double())
            self.tokens += tokens.shape[0]

    @property
    def mean_abs(self) -> Tensor:
        """Mean |x|, float64 [K]. Raises ValueError before any token was observed."""
        require_tokens(self.tokens)
        return self._sum / self.tokens

    @property
    def max_abs(self) -> Tensor:
        """Largest |x|, float64 [K]. Raises ValueError before any token was observed."""
        require_tokens(self.tokens)
        return self._max.clone()


def kept_tokens(inputs: Tensor, mask: Tensor | None, features: int) -> Tensor:
    """The tokens that count, [N, features] in float32 or float64; raises as ``observe`` says."""
    if not inputs.ndim or inputs.shape[-1] != features:
        raise ValueError(
            f"inputs have shape {tuple(inputs.shape)}; the layer takes [..., {features}]"
        )
    if mask is not None:
        if mask.shape != inputs.shape[:-1]:
            raise ValueError(
                f"the mask has shape {tuple(mask.shape)}; inputs of shape {tuple(inputs.shape)} "
                f"need {tuple(inputs.shape[:-1])}, one entry a token"
            )
        inputs = inputs[mask.to(device=inputs.device, dtype=torch.bool)]
    tokens = inputs.reshape(-1, features).to(torch.promote_types(inputs.dtype, torch.float32))
    require_finite(tokens, "inputs")
    return tokens


def output_mse(weight: Tensor, candidate: Tensor, hessian: Tensor) -> Tensor:
    """Mean squared error of each output when the candidate replaces the weight, float64 [M].

    mean over tokens of ((w − c)·x)² = (w − c)·H·(w − c)ᵀ / 2, for weights [M, K] and H [K, K].
    """
    error = weight.double() - candidate.double()
    # A sum of squares in exact arithmetic: what is below 0 is rounding.
    return ((error @ hessian.double()) * error).sum(dim=1).div(2).clamp(min=0)


def check_hessian(hessian: Tensor, weights: Sequence[Tensor]) -> None:
    """Raises ValueError unless H is finite, [K, K], and every weight a finite matrix [M, K]."""
    for weight in weights:
        if weight.ndim != 2:
            raise ValueError(f"the weight has shape {tuple(weight.shape)}; a matrix is needed")
        if hessian.shape != (weight.shape[1], weight.shape[1]):
            raise ValueError(
                f"the Hessian has shape {tuple(hessian.shape)}; a weight of shape "
                f"{tuple(weight.shape)} needs one of {(weight.shape[1], weight.shape[1])}"
            )
        require_finite(weight, "weight")
    require_finite(hessian, "hessian")


def require_tokens(tokens: int) -> None:
    """Raises ValueError where no token was observed."""
    if not tokens:
        raise ValueError("no token was observed; give calibration inputs that reach this layer")
