"""llmcompressor 0.14: pruning by a threshold prunes all weights that are equal to it.

The mask of unstructured magnitude pruning keeps scores above the k-th smallest, and
`sparsify_weight` of SparseGPT prunes all up to number k + 1: half of a row of equal weights is all
of it, and half of 1, 2, 3, 4 is three of them. Wanda sorts, and is right. No public thread found.
Breaks PruningSuite.test_the_share_that_is_asked_for_is_removed.
"""

from __future__ import annotations

import torch
from recorded import recorded

REQUIREMENT = "llmcompressor>=0.14,<0.15"
PRUNING = "llmcompressor.modifiers.pruning."
masks = recorded(PRUNING + "utils.pytorch.mask_factory", REQUIREMENT)
sparsegpt = recorded(PRUNING + "sparsegpt.sgpt_sparsify", REQUIREMENT)


def test_half_of_equal_weights_is_all_of_them_by_magnitude() -> None:
    ones = torch.nn.Parameter(torch.ones(1, 4))
    create = masks.PruningMaskFactory.create_mask_creator("unstructured")
    mask = create(masks.PruningMaskCreatorArgs(parameter=ones, sparsity=0.5, scores=ones.data))
    assert not mask.any()


def test_half_of_four_weights_is_three_by_sparsegpt() -> None:
    layer = torch.nn.Linear(4, 1, bias=False)
    layer.load_state_dict({"weight": torch.tensor([[1.0, 2.0, 3.0, 4.0]])})
    _, pruned = sparsegpt.sparsify_weight(
        module=layer,
        hessians_dict={layer: torch.eye(4)},
        sparsity=0.5,
        prune_n=0,
        prune_m=0,
        block_size=4,
        dampening_frac=0.01,
        preserve_sparsity_mask=False,
    )
    assert (pruned == 0).sum() == 3
