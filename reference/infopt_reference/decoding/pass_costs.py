"""What passes take: measured behind a row, for the simulator to count with.

Contract. A pass is what a decoder does in it: logits of the new tokens, the rejected ones of the
pass before rolled back, the pipeline, a draw. All sizes take turns, so that a machine that grows
slower does so for all of them. The prompt is computed before the clock starts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from .pipeline import LogitsPipeline, drawn
from .scorer import Scorer
from .simulator import PassCosts


def measure_costs(
    target: Scorer,
    draft: Scorer,
    row: Sequence[int],
    lookahead: int,
    pipeline: LogitsPipeline,
    rounds: int = 5,
) -> PassCosts:
    """Median CPU seconds of passes behind ``row``: of the target over each number of tokens up to
    ``lookahead + 1``, and of the draft over one. Both scorers work on one row.

    Raises:
        ValueError: the lookahead or the rounds are fewer than 1.
    """
    if lookahead < 1 or rounds < 1:
        raise ValueError(f"lookahead is {lookahead} and rounds {rounds}; give 1 or more of each")
    sizes = range(1, lookahead + 2)
    for scorer in (target, draft):
        _seconds(scorer, row, 1, pipeline)
    taken: dict[int, list[float]] = {size: [] for size in sizes}
    drafts = []
    for _ in range(rounds):
        for size in sizes:
            taken[size].append(_seconds(target, row, size, pipeline))
            drafts.append(_seconds(draft, row, 1, pipeline))
    of_target = {size: statistics.median(each) for size, each in taken.items()}
    return PassCosts(of_target.__getitem__, statistics.median(drafts))


def _seconds(scorer: Scorer, row: Sequence[int], size: int, pipeline: LogitsPipeline) -> float:
    """Of one pass over the row's last token and ``size − 1`` behind it."""
    longer = [*row, *[row[-1]] * (size - 1)]
    behind = [longer[: len(row) + place] for place in range(size)]
    uniforms = torch.full((size,), 0.5, dtype=torch.float64)
    started = time.process_time()
    drawn(pipeline(scorer.score([longer], [size]), behind, [len(row)] * size), uniforms)
    return time.process_time() - started
