"""torchao 0.18.0: quantize_ takes subclasses of nn.Linear that cannot run afterwards.

Its default filter asks ``isinstance(module, nn.Linear)``, and its tensors know `functional.linear`,
not ``permute``. A subclass that writes its product out, as FalconLinear of transformers does
(``hidden_states = input @ self.weight.T``), is quantized without a word and fails in its first
forward pass. Found by ModelQuantizerSuite.test_the_quantized_model_runs
(tests/third_party/test_third_party_whole_models.py).
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from transformers.models.falcon.modeling_falcon import FalconLinear


def test_falcons_linear_layer_cannot_run_once_it_is_quantized() -> None:
    layer = nn.Sequential(FalconLinear(8, 8, bias=False))
    layer(torch.eye(8))
    quantize_(layer, Int8WeightOnlyConfig())
    with pytest.raises(NotImplementedError, match="permute"):
        layer(torch.eye(8))
