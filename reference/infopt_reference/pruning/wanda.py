"""Wanda: a weight's score is its magnitude times the norm of the input feature that it meets.

S_ij = |W_ij| · ‖x_j‖₂, with ‖x_j‖₂² = Σ x_j² over all calibration tokens; scores are ranked within
each row, that is, within the weights of one output. No weight is updated.

Contract. Norms are sums in float64, so they depend on the tokens, not on how they are split into
batches or ordered; positions that a mask excludes are not looked at, whatever they hold. A factor
common to all norms changes no ranking: sum and mean over tokens give the same masks.

Source: Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models",
arXiv:2306.11695, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..quantization.calibration import kept_tokens, require_tokens
from ..quantization.checks import require_finite


class FeatureNorms:
    """The L2 norm of each input feature over all tokens observed so far."""

    def __init__(self, features: int, device: torch.device | str | None = None) -> None:
        self.tokens = 0
        self._squares = torch.zeros(features, dtype=torch.float64, device=device)

    @torch.no_grad()
    def observe(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        """Adds a batch; arguments and errors as of `calibration.HessianStatistics.observe`."""
        tokens = kept_tokens(inputs, mask, self._squares.numel()).double()
        self._squares += tokens.square().sum(dim=0)
        self.tokens += tokens.shape[0]

    @property
    def norms(self) -> Tensor:
        """‖x_j‖₂, float64 [K]. Raises ValueError before any token was observed."""
        require_tokens(self.tokens)
        return self._squares.sqrt()


def wanda_scores(weight: Tensor, norms: Tensor) -> Tensor:
    """|W| · ‖x‖₂, float64 [M, K], of a weight [M, K] and the norms [K] of its inputs.

    Rank them within rows: ``unstructured_mask(scores, sparsity, per_row=True)`` or `n_m_mask`.

    Raises:
        ValueError: shapes do not fit, a norm is negative, or a value is not finite.
    """
    if weight.ndim != 2 or norms.shape != weight.shape[1:]:
        raise ValueError(
            f"the weight has shape {tuple(weight.shape)} and the norms {tuple(norms.shape)}; "
            "give [outputs, inputs] and [inputs]"
        )
    require_finite(weight, "weight")
    require_finite(norms, "norms")
    if bool((norms < 0).any()):
        raise ValueError(f"norms go down to {norms.min().item()}; they are 0 or more")
    return weight.detach().abs().double() * norms.double()
