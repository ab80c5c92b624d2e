"""optimum-quanto 0.2.7: with ``zeropoint=True`` groups on one side of 0 are cut off to nothing.

`AffineOptimizer` documents the flag as an exact representation of zero. `MaxOptimizer` takes the
range from the smallest to the largest weight, 0 not among them, so the zero point of a group
that does not reach 0 lies outside the codes and is clamped into them: every weight is then beyond
the range. A group of −8 alone comes back as 0; 15…22 comes back as at most 7. Found by
QuantizerSuite.test_error_is_within_the_bound_of_the_scheme
(tests/third_party/test_third_party_quanto.py).
"""

from __future__ import annotations

import torch
from optimum.quanto import MaxOptimizer, qint4, quantize_weight


def test_one_sided_groups_are_cut_off() -> None:
    weight = torch.linspace(15, 22, 32).reshape(2, 16)
    scale, shift = MaxOptimizer()(weight, qint4, 0, 16, zeropoint=True)
    restored = quantize_weight(weight, qint4, 0, scale, shift, 16, optimized=False).dequantize()
    step = float(scale.max())
    assert float(restored.max()) <= 15 * step < 8, "quanto puts 0 into ranges: accept zero points"
