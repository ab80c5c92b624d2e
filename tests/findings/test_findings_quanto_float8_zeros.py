"""optimum-quanto 0.2.7: qfloat8 turns a row of zeros into NaN.

`AbsmaxOptimizer` gives a row of zeros the scale 0, `quantize_symmetric` divides by it, and float8
holds the NaN of 0/0. In qint8 the same NaN is cast to an integer and multiplied by 0. Found by
QuantizerSuite.test_finite_weights_come_back_finite (tests/third_party/test_third_party_quanto.py).
"""

from __future__ import annotations

import torch
from optimum.quanto import AbsmaxOptimizer, qfloat8, quantize_weight


def test_a_row_of_zeros_becomes_nan() -> None:
    weight = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    scale = AbsmaxOptimizer()(weight, qfloat8, axis=0)
    restored = quantize_weight(weight, qfloat8, axis=0, scale=scale, optimized=False).dequantize()
    assert restored[0].tolist() == [1.0, 2.0]
    assert restored[1].isnan().all(), "quanto keeps rows of zeros: accept its TestFloat8"
