"""LLM.int8(): products of 8-bit integers, with the few features of large activations in 16 bit.

A feature i (a column of the input X) is an outlier where |X[t, i]| ≥ threshold for any row t.
    sx[t] = max |X[t, i]| / 127 over the other features,   qx = round(X / sx)      int8
    sw[o] = max |W[o, i]| / 127 over all features,         qw = round(W / sw)      int8
    Y[t, o] = sx[t] · sw[o] · Σ_other qx[t, i] · qw[o, i]  +  Σ_outlier X[t, i] · qw[o, i] · sw[o]
The first sum is exact, in int32; the second runs in the dtype of X, 16 bit in the models that this
is for. Large language models have a handful of features tens of times larger than the others; as
part of sx they would leave those a few of the 255 levels.

The paper multiplies outlier features with 16-bit weights. Here these come from the int8 codes, as
in bitsandbytes: which features are outliers is known only when X is, so that keeping their weights
would mean to keep all of them in 16 bit besides, three times the memory. The price is at most
|X| · sw/2 for each product, what the weights of other features cost as well.

Contract. threshold = inf finds no outliers: plain vector-wise int8. threshold = 0 finds nothing
else: a product with the dequantized weight (in bitsandbytes 0 turns the search off). A row of zeros
gives zeros. Rows influence each other in nothing but the choice of outlier features, which are
those of all rows of a call; so results depend on what else is in the batch. For inference:
nothing here has a gradient.

Source: Dettmers et al. 2022, "LLM.int8()", arXiv:2208.07339, section 3.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from .checks import require_finite
from .linear import QuantizedLinear
from .quantized import QuantizedTensor, quantize, quantize_activations
from .scheme import PRESETS, Granularity, QuantizationScheme, number_format

THRESHOLD = 6.0  # the paper's, section 3.2: what it separates, it separates in models of all sizes
_INT32_FEATURES = (2**31 - 1) // 127**2  # as many products of codes never overflow


@torch.no_grad()
def llm_int8_matmul(x: Tensor, weight: QuantizedTensor, threshold: float = THRESHOLD) -> Tensor:
    """x [..., K] · Wᵀ for a quantized W [M, K]: [..., M], in the dtype of x.

    Raises:
        ValueError: the weight is not in symmetric int8 with a scale for each of its M channels, x
            has another number of features than it or none, x is not floating point or not finite,
            or the threshold is negative or NaN.
    """
    _check_weight(weight)
    _check_threshold(threshold)
    features = weight.shape[1]
    if not x.is_floating_point() or not x.ndim or x.shape[-1] != features:
        raise ValueError(
            f"x is {x.dtype} {tuple(x.shape)}; the weight takes floating point [..., {features}]"
        )
    require_finite(x, "x")
    rows = x.reshape(-1, features)  # [T, K]
    outliers = (rows.abs() >= threshold).any(dim=0)  # [K]
    product = _int8_product(rows[:, ~outliers], weight, ~outliers)
    if bool(outliers.any()):
        product += functional.linear(rows[:, outliers], _columns(weight, outliers, x.dtype))
    return product.to(x.dtype).view(*x.shape[:-1], weight.shape[0])


def _int8_product(rows: Tensor, weight: QuantizedTensor, features: Tensor) -> Tensor:
    """The part of the chosen features, [T, M] in float32 (float64 for float64 rows)."""
    dtype = torch.promote_types(rows.dtype, torch.float32)
    if not rows.numel():
        return torch.zeros(rows.shape[0], weight.shape[0], dtype=dtype, device=rows.device)
    quantized = quantize_activations(rows, PRESETS["int8"])  # a scale for each row
    sums = _int32_sums(quantized.unpacked_codes(), weight.unpacked_codes()[:, features])
    return sums.to(dtype).mul_(quantized.scales[:, None]).mul_(weight.scales)


def _int32_sums(rows: Tensor, columns: Tensor) -> Tensor:
    """Exact products of int8 matrices [T, K] and [M, K]: int32 [T, M]."""
    # CUDA's kernel wants more than 16 rows and multiples of 8 else. Zeros change no sum.
    features = (0, -rows.shape[1] % 8)
    padded_rows = functional.pad(rows, (*features, 0, max(0, 17 - rows.shape[0])))
    padded_columns = functional.pad(columns, (*features, 0, -columns.shape[0] % 8))
    # The leading underscore is torch's; there is no public way to the kernel.
    sums = torch._int_mm(padded_rows, padded_columns.T)
    return sums[: rows.shape[0], : columns.shape[0]]


def _columns(weight: QuantizedTensor, features: Tensor, dtype: torch.dtype) -> Tensor:
    """The dequantized weights [M, K] of the chosen features."""
    scales = weight.scales.to(torch.promote_types(dtype, torch.float32))[:, None]
    codes = weight.unpacked_codes()[:, features]
    return number_format(weight.scheme).decode(codes, scales, None).to(dtype)


class LLMInt8Linear(QuantizedLinear):
    """`nn.Linear` for inference in LLM.int8(): int8 weights, int8 activations but for outliers.

    State and changes of dtype are those of `QuantizedLinear`. The threshold is not part of the
    state: it says how to compute, not what the weights are.

    Raises:
        ValueError: the weight is not in symmetric int8 with a scale for each output, or the
            threshold is negative or NaN.
    """

    def __init__(
        self,
        weight: QuantizedTensor,
        bias: nn.Parameter | None = None,
        *,
        threshold: float = THRESHOLD,
    ) -> None:
        super().__init__(weight, bias)
        _check_weight(weight)
        _check_threshold(threshold)
        self.threshold = threshold

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        scheme: QuantizationScheme = PRESETS["int8"],
        *,
        threshold: float = THRESHOLD,
    ) -> Self:
        """Quantizes a layer's weight; the bias is shared with it, not copied."""
        return cls(quantize(linear.weight, scheme), linear.bias, threshold=threshold)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] → [..., out_features], in the dtype of x; raises as the product."""
        product = llm_int8_matmul(x, self.quantized_weight, self.threshold)
        return product if self.bias is None else product + self.bias.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, threshold={self.threshold}"


def _check_weight(weight: QuantizedTensor) -> None:
    scheme = weight.scheme
    plain = scheme.bits == 8 and scheme.symmetric and scheme.codebook is None
    rowwise = scheme.granularity is Granularity.CHANNEL and scheme.axis in (0, -2)
    if not plain or not rowwise or len(weight.shape) != 2:
        raise ValueError(
            f"the weight is {scheme}, shape {tuple(weight.shape)}; LLM.int8() needs a matrix in "
            "8-bit symmetric, per channel of axis 0 (the preset 'int8')"
        )
    if weight.shape[1] > _INT32_FEATURES:
        raise ValueError(
            f"the weight has {weight.shape[1]} features; sums of more than {_INT32_FEATURES} "
            "products may overflow int32: split the matrix"
        )


def _check_threshold(threshold: float) -> None:
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold}; give 0 or more (the paper's is {THRESHOLD})")
