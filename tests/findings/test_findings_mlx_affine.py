"""mlx 0.32: quantize(mode="affine") does not follow its documented formula.

The documentation gives s = (max − min) / (2ᵇ − 1) and min as the bias. The kernel starts from the
end of larger magnitude, gives s the sign that leads away from it, and changes s so that zero falls
on a level: the other end is on none any more. Documented, both ends of a group are exact. No
public thread found. Found by comparing both.
"""

from __future__ import annotations

import pytest
from recorded import recorded

mx = recorded("mlx.core", "mlx>=0.32,<0.33")


def test_the_smallest_weight_of_a_positive_group_is_not_exact() -> None:
    weights = (mx.arange(32) + 10).astype(mx.float32).reshape(1, 32)
    packed, scale, bias = mx.quantize(weights, group_size=32, bits=4)
    assert (scale.item(), bias.item()) == (pytest.approx(-2.05), 41.0)  # documented: 31/15, 10
    restored = mx.dequantize(packed, scale, bias, group_size=32, bits=4)
    assert restored[0, 0].item() == pytest.approx(10.25)
