"""nncf 3.4.0: INT4_SYM and INT8_SYM lose a step on groups of positive weights of one size.

Symmetric modes give the scale a sign, so that the end of larger magnitude takes −2ᵇ⁻¹ (nncf#2790).
`_calculate_signed_scale` compares |min| with max, and a group of equal positive weights has
|min| = max: it is taken for one with a negative end, and its weights are clipped at 2ᵇ⁻¹ − 1 steps.
INT4 makes .875 of 1; of −1, as INT4_ASYM does of either, it makes −1. Breaks
QuantizerSuite.test_negating_weights_negates_the_result.
"""

from __future__ import annotations

import numpy as np
import pytest
from recorded import recorded

nncf = recorded("nncf", "nncf>=3.4,<3.5")
ALGORITHM = "nncf.quantization.algorithms.weight_compression."
config = recorded(ALGORITHM + "config", "nncf")
lowering = recorded(ALGORITHM + "weight_lowering", "nncf")
tensor = recorded("nncf.tensor", "nncf")


@pytest.mark.parametrize(("mode", "kept"), [("INT4_SYM", 7 / 8), ("INT8_SYM", 127 / 128)])
def test_ones_become_less_and_minus_ones_stay(mode: str, kept: float) -> None:
    scheme = config.WeightCompressionConfig(nncf.CompressWeightsMode[mode], group_size=4)
    for weight, result in ((1.0, kept), (-1.0, -1.0)):
        group = tensor.Tensor(np.full((1, 4), weight, np.float32))
        restored = lowering.integer_quantize_dequantize_weight(group, scheme, (1,))
        assert restored.data.flatten().tolist() == [result] * 4
