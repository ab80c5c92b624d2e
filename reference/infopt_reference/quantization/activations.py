"""Quantization of activations: each token, group or tensor by its own range, or by a fixed one.

Activations x [..., K] are read as tokens [T, K], all leading axes flattened. A scheme per channel
of axis 0 has a scale for each token, one in groups a scale for each group of a token.

Dynamic (`quantized.quantize_activations`, `round_activations`): ranges are those of the activations
at hand. Static (`StaticActivationQuantizer`): one range for all calls, the extremes of the batches
that were observed; what lies beyond is clipped.

Contract. As of `quantized.quantize`; but a batch without tokens comes back as it is. Tokens
influence each other under a scheme per tensor alone. Gradients pass straight through where nothing
is clipped (`fake_quantization`).

Sources: Jacob et al. 2018, arXiv:1712.05877, section 3; per token: Yao et al. 2022,
"ZeroQuant", arXiv:2206.01861, section 4.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .fake_quantization import fake_quantize
from .quantized import check_weight
from .scales import store_scales
from .scheme import Granularity, QuantizationScheme, number_format


def round_activations(
    x: Tensor,
    scheme: QuantizationScheme,
    *,
    scales: Tensor | None = None,
    zero_points: Tensor | None = None,
) -> Tensor:
    """x [..., K] as `quantized.quantize_activations` would decode it, in its shape and dtype.

    Given scales and zero points are those of `fake_quantization.fake_quantize`, which says what is
    raised.
    """
    if not x.numel():
        return x.clone()
    rounded = fake_quantize(
        x.reshape(-1, x.shape[-1]), scheme, scales=scales, zero_points=zero_points
    )
    return rounded.view(x.shape)


class StaticActivationQuantizer:
    """One range for all activations, from the least and the largest that were observed.

    Raises:
        ValueError: the scheme is not per tensor.
    """

    def __init__(self, scheme: QuantizationScheme) -> None:
        if scheme.granularity is not Granularity.TENSOR:
            raise ValueError(f"the scheme is {scheme}; static ranges are per tensor")
        self.scheme = scheme
        self.low = self.high = 0.0  # 0 is a level of every grid

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Widen the range to these activations; raises ValueError as `quantized.quantize` does."""
        check_weight(x)
        self.low = min(self.low, float(x.min()))
        self.high = max(self.high, float(x.max()))

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., K] rounded, and clipped to the range; nothing is learnt from it."""
        form = number_format(self.scheme)
        low, high = (torch.tensor([end], dtype=torch.float64) for end in (self.low, self.high))
        share = form.rounding_error / form.extent
        scales = store_scales(form.ideal_scales(low, high), self.scheme.scale_dtype, share)
        zeros = form.zero_points(low, scales)
        constants = (None if c is None else c.view(()).to(x.device) for c in (scales, zeros))
        scale, zero_point = constants
        return round_activations(x, self.scheme, scales=scale, zero_points=zero_point)
