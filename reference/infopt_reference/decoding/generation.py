"""Plain decoding: one token a pass. What speculative decoding is compared with.

Contract. Each token is drawn from the pipeline's distribution behind all tokens before it; the
output ends with the first token that completes a stop rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .pipeline import LogitsPipeline, drawn
from .scorer import Scorer
from .stopping import FinishReason, StoppingRules


def generate(
    scorer: Scorer,
    prompt: Sequence[int],
    pipeline: LogitsPipeline,
    stopping: StoppingRules,
    seed: int = 0,
) -> tuple[list[int], FinishReason]:
    """The output of one prompt, and why it ended.

    Raises:
        ValueError: the prompt is empty, or logits are not fit to draw from.
    """
    if not len(prompt):
        raise ValueError("the prompt is empty; give one token at least")
    generator = torch.Generator().manual_seed(seed)
    row, reason = [*prompt], None
    while reason is None:
        chances = pipeline(scorer.score([row], [1]), [row], [len(prompt)])
        uniform = torch.rand(1, generator=generator, dtype=torch.float64)
        row.append(int(drawn(chances, uniform)))
        reason = stopping.reason(row[len(prompt) :])
    return row[len(prompt) :], reason
