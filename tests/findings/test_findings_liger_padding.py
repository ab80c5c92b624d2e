"""liger-kernel 0.8.5: a student whose vocabulary is shorter is padded with logits of 0.

Where the teacher's head has rows for padding, `LigerFusedLinearDistillationBase._compute_loss`
gives the student as many logits of 0. These are tokens that the student cannot say, so −∞ would
leave its distribution as it is; 0 gives them a share of its probability, which may be most of it.
A student that is its teacher but for the padding has a loss, and a gradient that raises all of its
logits. Found by reading it for DistillationLossSuite.test_another_vocabulary_is_refused
(tests/third_party/test_third_party_distillation.py).
"""

from __future__ import annotations

import pytest
import torch


@pytest.mark.xfail(strict=True, reason="liger-kernel 0.8.5 pads the student's logits with 0")
def test_padding_of_the_teachers_head_changes_nothing() -> None:
    chunked = pytest.importorskip(
        "liger_kernel.chunked_loss", reason="install the extra distillation-peers"
    )
    loss = chunked.LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False
    )
    logits = torch.tensor([[-4.0, -3.0, -5.0]])
    head = torch.eye(3)
    never = torch.full((1, 2), -100.0)  # what a teacher's padded rows say
    wide = torch.cat([logits, never], dim=1)
    found = loss(logits, head, wide, torch.eye(5), torch.tensor([0]))
    assert float(found) == pytest.approx(0, abs=1e-6)
