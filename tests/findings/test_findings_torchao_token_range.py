"""torchao 0.18.0: the range of a float16 token overflows in per_token_dynamic_quant.

`choose_qparams_affine` subtracts the smallest from the largest activation in the dtype of the
input, whatever ``scale_dtype`` is. In float16 that is infinite from 65,520 on, such as for a token
with ±33,000, which float16 holds. The scale is then infinite and the token NaN. Found by
ActivationQuantizerSuite.test_finite_activations_come_back_finite
(tests/third_party/test_third_party_activations.py).
"""

from __future__ import annotations

import torch
from torchao.quantization.utils import per_token_dynamic_quant


def test_a_float16_token_of_a_wide_range_is_lost() -> None:
    x = torch.tensor([[33_000.0, -33_000.0, 1.0]])
    assert per_token_dynamic_quant(x).isfinite().all()
    rounded = per_token_dynamic_quant(x.half())
    assert not rounded.isfinite().all(), "the range is float32: accept TestTorchaoRangeInFloat16"
