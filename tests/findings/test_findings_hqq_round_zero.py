"""hqq 0.2.8.post1: with ``round_zero`` and without ``optimize`` a constant group becomes integers.

`Quantizer.quantize` gives a group whose range is below 1e-4 the scale 1, so that nothing is divided
by 0; the offset then carries the weights alone. ``round_zero``, the default for 4 bit, rounds that
offset to a whole number: 0.8315 comes back as 1, −0.3 as 0. (``optimize`` estimates the offset
anew, unrounded.) Found by QuantizerSuite.test_error_is_within_the_bound_of_the_scheme
(tests/third_party/test_third_party_hqq.py).
"""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize(("weight", "restored"), [(0.8315, 1.0), (-0.3, 0.0)])
def test_a_constant_group_comes_back_as_a_whole_number(weight: float, restored: float) -> None:
    quantizer = pytest.importorskip("hqq.core.quantize").Quantizer
    group = torch.full((1, 16), weight)
    codes, constants = quantizer.quantize(
        group, nbits=8, group_size=16, optimize=False, round_zero=True, axis=1, device="cpu"
    )
    decoded = quantizer.dequantize(codes, {**constants, "compute_dtype": torch.float32})
    assert (decoded == restored).all(), "hqq keeps constant groups: accept TestRoundedOffsets"
