"""torchao 0.18.0: WandaSparsifier ranks weights by |w| · ‖x‖², not by |w| · ‖x‖ as Wanda does.

`PerChannelNormObserver.forward` adds up squared norms, so that batches can be joined, and
`WandaSparsifier.update_mask` multiplies with its ``norm`` without taking the root. The class cites
arXiv:2306.11695, whose score has the plain L2 norm; with squares activations count twice and the
masks differ from the paper's. Found by
PruningSuite.test_activations_decide_with_the_weights (tests/suites/test_suites_pruning.py).

It also ranks over the whole layer where the paper ranks within each output; its documentation says
so, which makes that a choice.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn


@pytest.mark.xfail(strict=True, reason="torchao 0.18.0 squares the norms of activations")
def test_the_score_is_the_weight_times_the_norm_of_its_input() -> None:
    sparsity = pytest.importorskip("torchao.sparsity")
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    model[0].weight.data = torch.tensor([[3.0, 1.0]])
    sparsifier = sparsity.WandaSparsifier(sparsity_level=0.5)
    sparsifier.prepare(model, config=[{"tensor_fqn": "0.weight"}])
    model(torch.tensor([[1.0, 2.0]]))
    sparsifier.step()
    # 3 · 1 beats 1 · 2; with squares, 1 · 4 beats 3 · 1.
    assert model[0].parametrizations.weight[0].mask.tolist() == [[1.0, 0.0]]
