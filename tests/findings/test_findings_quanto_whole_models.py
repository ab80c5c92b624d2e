"""optimum-quanto 0.2.7: quantize puts layers into training mode, and breaks one at two names.

``QModuleMixin.from_module`` makes a new layer, which is in training as all new modules are, in a
model that was in eval mode; it takes the weight out of the old one, and ``quantize`` puts the new
one in under the first name alone, so the second name holds a layer without a weight. Found by
ModelQuantizerSuite.test_training_modes_and_module_names_stay and test_the_quantized_model_runs
(tests/third_party/test_third_party_whole_models.py).
"""

from __future__ import annotations

import pytest
import torch
from optimum.quanto import freeze, qint8, quantize
from torch import nn


def test_layers_of_a_model_in_eval_mode_are_in_training_mode() -> None:
    model = nn.Sequential(nn.Linear(8, 8)).eval()
    quantize(model, weights=qint8)
    freeze(model)
    assert not model.training
    assert model[0].training, "quanto keeps modes: accept OfQuanto's property"


def test_a_layer_at_two_names_has_no_weight_at_the_second() -> None:
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    quantize(model, weights=qint8)
    freeze(model)
    assert model[2] is layer
    assert model[2].weight is None, "quanto keeps shared layers: try the model 'shared'"
    with pytest.raises(TypeError):
        model(torch.ones(1, 8))
