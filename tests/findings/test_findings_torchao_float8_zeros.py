"""torchao 0.18.0: Float8WeightOnlyConfig turns a row of zeros into NaN.

`_choose_scale_float8` gives a row of zeros the scale 0, and `_quantize_affine_float8` divides by
it: 0/0. The scale is computed in the weight's dtype, so in float16 it is 0 for every row below
448 · 2^−25, about 1.3e-5, as well. A dead output channel, or one that pruning emptied, makes every
product with the layer NaN. The integer primitives of the same library have an ``eps`` for it. Found
by QuantizerSuite.test_finite_weights_come_back_finite
(tests/third_party/test_third_party_torchao.py).
"""

from __future__ import annotations

import torch
from torch import nn
from torchao.quantization import Float8WeightOnlyConfig, quantize_


def test_a_row_of_zeros_becomes_nan() -> None:
    layer = nn.Linear(2, 2, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), requires_grad=False)
    quantize_(layer, Float8WeightOnlyConfig())
    restored = layer.weight.dequantize()
    assert restored[0].tolist() == [1.0, 2.0]
    assert restored[1].isnan().all(), "torchao keeps rows of zeros: accept TestFloat8WeightOnly"


def test_a_float16_row_of_small_weights_and_a_zero_holds_a_nan() -> None:
    layer = nn.Linear(2, 2, bias=False, dtype=torch.float16)
    weight = torch.tensor([[1.0, 2.0], [1e-5, 0.0]], dtype=torch.float16)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    quantize_(layer, Float8WeightOnlyConfig())
    assert layer.weight.scale[1] == 0
    assert layer.weight.dequantize()[1, 1].isnan(), "torchao computes scales in float32 now"
