"""bitsandbytes 0.50.2: dequantize_4bit gives a vector a second dimension.

`QuantState.shape` is the shape of what was quantized, and a vector of 64 comes back as (1, 64):
a bias or a norm that was quantized does not fit its place any more. Two weights become (2, 1).
Found by QuantizerSuite.test_shape_dtype_and_device_come_back
(tests/third_party/test_third_party_bitsandbytes.py).
"""

from __future__ import annotations

import bitsandbytes.functional as bnb
import torch


def test_a_vector_comes_back_as_a_matrix() -> None:
    with torch.compiler.set_stance("force_eager"):
        packed, state = bnb.quantize_4bit(torch.ones(64), quant_type="nf4")
        restored = bnb.dequantize_4bit(packed, state)
    assert state.shape == (64,)
    assert restored.shape == (1, 64), "bitsandbytes keeps shapes: drop the reshape of the adapter"
