"""optimum-quanto 0.2.7: a weight of a single group gets a scale for each column.

`AffineOptimizer` makes the axis None where the grouped weight has one row, which is right for
`AbsmaxOptimizer`; `MaxOptimizer` reads None as the last axis. Each column is then its own group:
group_size is ignored, and the "4-bit" weight takes two floating-point numbers for each code. Found
by QuantizerSuite.test_every_group_has_a_scale (tests/third_party/test_third_party_quanto.py).
"""

from __future__ import annotations

import torch
from optimum.quanto import MaxOptimizer, qint4


def test_a_single_group_has_as_many_scales_as_weights() -> None:
    weight = torch.linspace(-1, 1, 16).reshape(1, 16)
    scale, _ = MaxOptimizer()(weight, qint4, axis=0, group_size=16)
    assert scale.numel() == 16, "quanto gives a group one scale: lower shortest_side to 1"
