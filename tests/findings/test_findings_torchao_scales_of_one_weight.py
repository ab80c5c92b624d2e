"""torchao 0.18.0: a block of a single weight ends in RuntimeError.

``block_size`` is documented as the size of the part that shares a scale. With blocks of one
weight no dimension is reduced, and `torch.amin(dim=[])` reduces all of them: one scale for the
whole tensor, which then has not the shape that `quantize_affine` expects. nn.Linear(1, n) with a
scale for each row is such a case; its int8 and float8 configurations raise too. Found by
QuantizerSuite.test_channels_do_not_influence_each_other
(tests/third_party/test_third_party_torchao.py).
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine


def test_blocks_of_one_weight_share_one_scale() -> None:
    weight = torch.tensor([[1.0], [2.0]])
    scale, _ = choose_qparams_affine(weight, MappingType.SYMMETRIC, (1, 1), torch.int8)
    assert scale.numel() == 1, "torchao gives each block a scale: lower shortest_side to 1"


def test_a_layer_of_one_input_is_not_quantized() -> None:
    with pytest.raises(RuntimeError, match="invalid for input of size 1"):
        quantize_(nn.Linear(1, 2), Int8WeightOnlyConfig())
