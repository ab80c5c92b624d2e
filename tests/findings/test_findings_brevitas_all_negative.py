"""brevitas 0.13.4: ShiftedUint8 weights make one number of a row without zero in its range.

The scale is (max − min) / 255, and the zero point −min / scale is then clipped to 255: a row from
−2 to −1 becomes −1 throughout, since codes cannot reach below −255 · scale. Rows of positive
weights get a range that holds zero since brevitas#670; negative ones do not. Per tensor it is the
same, and nncf had the like until nncf#4074. Breaks
QuantizerSuite.test_error_is_within_the_bound_of_the_scheme.
"""

from __future__ import annotations

import pytest
import torch
from recorded import recorded

nn = recorded("brevitas.nn", "brevitas>=0.13,<0.14")
quant = recorded("brevitas.quant", "brevitas")


@pytest.mark.parametrize(
    "quantizer", ["ShiftedUint8WeightPerChannelFloat", "ShiftedUint8WeightPerTensorFloat"]
)
def test_a_row_of_negative_weights_becomes_its_largest(quantizer: str) -> None:
    layer = nn.QuantLinear(3, 1, bias=False, weight_quant=getattr(quant, quantizer))
    layer.load_state_dict({"weight": torch.tensor([[-2.0, -1.5, -1.0]])}, strict=False)
    assert layer.quant_weight().value.tolist() == [[-1.0, -1.0, -1.0]]
