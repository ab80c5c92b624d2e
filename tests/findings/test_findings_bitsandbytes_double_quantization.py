"""bitsandbytes 0.50.2: double quantization makes scales negative, so weights change their signs.

``compress_statistics`` keeps absmax less its mean, in 8 bit. Decoding adds the mean again without
clamping at 0: of a block far smaller than others of its tensor the scale comes out anywhere within
the rounding error of the largest, below 0 too. QLoRA's c2 is an absmax, which is never negative. A
scale of 0 would lose those weights; −1.16 in place of 1 mirrors them. Found by
QuantizerSuite.test_order_within_a_group_is_kept
(tests/third_party/test_third_party_bitsandbytes.py).
"""

from __future__ import annotations

import bitsandbytes.functional as bnb
import torch


def test_a_small_block_comes_back_with_its_signs_changed() -> None:
    weight = torch.tensor([1.0, 200.0, 1000.0]).repeat_interleave(64)
    with torch.compiler.set_stance("force_eager"):
        packed, state = bnb.quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
        restored = bnb.dequantize_4bit(packed, state).flatten()
    assert restored[0] < 0, "bitsandbytes keeps scales positive: accept TestDoubleQuantization"
