"""neural-compressor 3.10: FP4 E2M1 has a wrong level, and scales are kept in the weights' dtype.

The smallest level of "fp4_e2m1" is 1/96 of the largest instead of 1/12: OCP's .5 beside 6 was taken
for .0625, bitsandbytes' number (neural-compressor#1891). A weight of a twelfth of the largest, a
level of E2M1, loses seven eighths. `quantize_4bit` and `qdq_weight_asym` compute scales in
float16 for float16 weights: "fp4" divides by 12 and gets 0, a range of 131,008 is infinite. No
thread found on that. Breaks CodebookSuite.test_decoded_weights_are_levels_of_the_code_book and
QuantizerSuite.test_finite_weights_come_back_finite.
"""

from __future__ import annotations

import math

import pytest
import torch
from recorded import recorded

woq = recorded(
    "neural_compressor.torch.algorithms.weight_only.utility", "neural-compressor>=3.10,<3.11"
)


def test_the_smallest_level_of_e2m1_is_an_eighth_of_what_it_should_be() -> None:
    result = woq.quant_tensor(torch.tensor([[6.0, 0.5]]), dtype="fp4_e2m1")
    assert result.tolist() == [[6.0, pytest.approx(0.0625)]]


def test_scales_of_float16_weights_are_zero_or_infinite() -> None:
    small = torch.tensor([[3e-7, -3e-7]], dtype=torch.float16)
    assert woq.quant_tensor(small.float(), dtype="fp4").equal(small.float())
    assert woq.quant_tensor(small, dtype="fp4").abs().max() == 0
    large = torch.tensor([[65504.0, -65504.0]], dtype=torch.float16)
    assert woq.quant_tensor(large, scheme="asym").min() == -math.inf
